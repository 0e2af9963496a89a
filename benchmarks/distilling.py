"""Every distillation objective at equal training time, on one model.

``DATA=mnist-train.parquet python -m benchmarks.distilling [OBJECTIVE...]`` trains a student by each
objective for MINUTES (8) on builtin:mnist, with the same network, batch, rate and average; what is
learned of FD on the way is its curve. FD and recall at the end are of other pictures, beside the
teacher's best. Runs lie under runs/distilling; a second call goes on where the first ended.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

import hasten
from benchmarks.results_io import FOLDER, read, write
from hasten.core.files import read_json
from hasten.learning.students.base import objectives
from hasten.learning.students.recipe import StudentRecipe
from hasten.learning.students.student import learn_student
from hasten.measuring.measure import judged
from hasten.measuring.real import real_for

MINUTES = float(os.environ.get("MINUTES", "8"))
DATA = os.environ.get("DATA", "mnist-train.parquet")
RUNS = Path("runs/distilling")
N = 2000
OBJECTIVES = {
    "consistency": 2,
    "continuous-consistency": 2,
    "improved-consistency": 2,
    "consistency-distillation": 2,
    "consistency-training": 2,
    "trajectory": 2,
    "progressive(first=64)": 1,
    "direct": 1,
    "reflow": 1,
    "dmd": 1,
    "shortcut": 1,
}
TEACHER = (
    "solver=unipc(order=3),grid=uniform,steps=6",
    "solver=dpmpp(order=2),grid=uniform,steps=10",
    "solver=unipc(order=3),grid=uniform,steps=50",
    "program=builtin:mnist/programs/4.json",
)


def student(model: hasten.Model, objective: str) -> dict[str, Any]:
    """Train one, unless it is trained already; its row."""
    evaluations = OBJECTIVES[objective]
    name = "".join(letter if letter.isalnum() else "-" for letter in objective).strip("-")
    recipe = StudentRecipe(
        name=f"mnist-{name}",
        objective=objective,
        evaluations=evaluations,
        data=DATA if objectives.parse(objective).needs == "data" else None,
        pictures=100_000_000,
        channels_last=False,
        precision="no" if objective.startswith("continuous") else "bf16",
        optimizer={"rate": 4e-4, "batch": 128, "warmup": 5000, "decay": "cosine"},  # type: ignore[arg-type]
        engine="openvino",
        trajectories=8192,
        trajectory_steps=12,
        checkpoint_every=20_000,
        preview_every=10_000,
    )
    out, began = RUNS / name, RUNS / f"{name}.began"
    if not began.exists():
        RUNS.mkdir(parents=True, exist_ok=True)
        began.write_text(str(time.time()))
    if not out.exists():
        learn_student(model, recipe, out, minutes=MINUTES)
    made = hasten.load(out)
    curve = read_json(RUNS / f"{name}.run" / "curve.json")
    start = float(began.read_text())
    return {
        "objective": objective,
        "minutes": MINUTES,
        "curve": [
            {"seconds": round(row["at"] - start), **{k: row[k] for k in ("stage", "fd", "recall")}}
            for row in curve
        ],
        "plans": [quality(made, fields) for fields in made.plans],
    }


def quality(model: hasten.Model, fields: dict[str, Any]) -> dict[str, Any]:
    """FD and recall of a plan."""
    sampler = hasten.build(model, hasten.Plan(**fields))
    found = judged(sampler, N, real_for(hasten.load("builtin:mnist")))
    row = {name: getattr(found[name], "value", None) for name in ("fd", "kd", "recall")}
    row["fd_interval"] = [found["fd"].low, found["fd"].high]
    return {"plan": str(sampler.plan), "evaluations": sampler.evaluations, "n": N, **row}


def main() -> None:
    model = hasten.load("builtin:mnist")
    wanted = sys.argv[1:] or list(OBJECTIVES)
    known = read("distilling")["rows"] if (FOLDER / "distilling.json").exists() else []
    rows = {row["objective"]: row for row in known}
    if "teacher" not in rows:
        plans = [hasten.Plan.read(text).chosen() for text in TEACHER]
        rows["teacher"] = {"objective": "teacher", "plans": [quality(model, p) for p in plans]}
    for objective in wanted:
        rows[objective] = student(model, objective)
        write("distilling", "students of builtin:mnist at equal training time", [*rows.values()])


if __name__ == "__main__":
    main()
