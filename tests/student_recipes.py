"""Short recipes of every objective, which several tests of students share."""

from __future__ import annotations

from hasten.learning.students.recipe import StudentRecipe

OBJECTIVES = {
    "consistency": 2,
    "consistency-distillation": 2,
    "consistency-training": 2,
    "improved-consistency": 2,
    "continuous-consistency": 2,
    "direct": 1,
    "direct(power=1)": 2,
    "knowledge-distillation": 4,
    "progressive(first=8)": 2,
    "trajectory": 2,
    "dmd": 1,
    "reflow": 1,
    "shortcut(finest=2)": 1,
}
DATA = (
    "consistency",
    "improved",
    "continuous",
    "progressive",
    "shortcut",
    "knowledge-distillation",
)


def recipe(objective: str, data: str, /, **changes) -> StudentRecipe:
    fields = {
        "objective": objective,
        "evaluations": OBJECTIVES[objective],
        "data": data if objective.startswith(DATA) else None,
        "pictures": 16 * 12,
        "trajectories": 24,
        "trajectory_steps": 4,
        "optimizer": {"rate": 1e-3, "batch": 16, "warmup": 0},
        "checkpoint_every": 16 * 3,
        "preview_every": 0,
    }
    return StudentRecipe(**{**fields, **changes})
