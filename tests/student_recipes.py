"""Short recipes of every objective, and exact models, which several tests of students share."""

from __future__ import annotations

import torch

import hasten
from conftest import tiny_attentive
from hasten.core.model import Model
from hasten.core.noise_schedule import ddpm_schedule
from hasten.core.prediction import prediction
from hasten.core.random_streams import generator
from hasten.learning.students.base import DistillationSetup, objectives
from hasten.learning.students.batched_denoiser import Teacher
from hasten.learning.students.recipe import StudentRecipe
from hasten.training.objective import Batch

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


def distillation(objective: str, teacher: Model, count: int = 8) -> tuple:
    """The objective's loss, its module, a batch, and the student."""
    part = objectives.parse(objective)
    kind = part.student(teacher)
    net = tiny_attentive(1).train()
    student = hasten.core.model.Model(**{**vars(kind), "net": net})
    stage = part.stages(OBJECTIVES.get(objective, 1))[0]
    classroom = DistillationSetup(teacher=Teacher(model=teacher), student=student, before=student)
    draws = generator(3)
    shape = (count, 1, 8, 8)
    if part.needs == "trajectories":
        states = 1 + sum(
            len(c) - 1 for c in part.trajectory_levels(teacher.schedule, stage.evaluations)
        )
        shape = (count, states, 1, 8, 8)
    rows = torch.randn(shape, generator=draws).clamp(-1, 1)
    batch = Batch(rows=rows, labels=torch.arange(count) % 2, generator=generator(4))
    return part.objective(classroom, stage), part.module(classroom), batch, student


class Exact(torch.nn.Module):
    """The v of data N(0, spread^2): what a perfectly trained network tells, so that its x0 is the
    mean; `consistent` gives the end of the ODE through x instead."""

    def __init__(self, model_schedule, consistent: bool, spread: float = 0.5) -> None:
        super().__init__()
        self.schedule, self.consistent, self.spread = model_schedule, consistent, spread

    def forward(self, x, t, condition=None):
        table = torch.tensor(self.schedule.alphas_cumprod, dtype=torch.float64)
        half_log_snr = 0.5 * (table / (1 - table)).log().float()
        low = t.detach().long().clamp(0, len(table) - 2)
        begin, end = half_log_snr[low], half_log_snr[low + 1]
        between = (begin + (t - low) * (end - begin)).view(-1, 1, 1, 1)
        alpha, sigma = (torch.sigmoid(sign * 2 * between).sqrt() for sign in (1, -1))
        width = (alpha**2 * self.spread**2 + sigma**2).sqrt()
        if self.consistent:
            x0 = self.spread * x / width
        else:
            x0 = alpha * self.spread**2 / width**2 * x
        return (alpha * x - x0) / sigma


def gaussian(consistent: bool, spread: float = 0.5) -> Model:
    schedule = ddpm_schedule()
    kind = {"schedule": schedule, "prediction": prediction("v"), "shape": (1, 8, 8)}
    return Model(net=Exact(schedule, consistent, spread), name="gaussian", **kind)


def loss_on_gaussian(
    objective: str, student: Model, teacher: Model, step: int = 0, progress: float = 0.99
):
    part = objectives.parse(objective)
    stage = part.stages(2)[0]
    classroom = DistillationSetup(teacher=Teacher(model=teacher), student=student, before=teacher)
    rows = 0.5 * torch.randn(512, 1, 8, 8, generator=generator(5))
    batch = Batch(rows=rows, labels=None, generator=generator(6), step=step, progress=progress)
    return float(part.objective(classroom, stage).loss(part.module(classroom), batch).detach())
