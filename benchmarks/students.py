"""The students that ship beside their teacher's best: ``python -m benchmarks.students``.

FD and recall of the same number of pictures from the same noise. Wanted: two evaluations at most
1.1 times, one at most 1.5 times the teacher's lowest FD, recall within five points.
"""

from __future__ import annotations

from typing import Any

import hasten
from benchmarks.results_io import write
from hasten.levers.student import student_plans
from hasten.measuring.measure import judged
from hasten.measuring.real import real_for

N = 2000
STUDENTS = ("builtin:mnist-2",)
SMALL = "builtin:mnist/starts/mixture-small.safetensors"
MIXTURE = "start=mixture(ratio=1.7, steps=0, file='builtin:mnist/starts/mixture.safetensors')"
TEACHER = (
    "solver=unipc(order=3),grid=uniform,steps=50",
    "solver=dpmpp-sde,grid=uniform,steps=5",
    "solver=dpmpp-sde,grid=uniform,steps=6",
    "solver=dpmpp-sde,grid=uniform,steps=7",
    "solver=dpmpp-sde,grid=uniform,steps=6,clip=1.0",
    "solver=dpmpp(order=2),grid=uniform,steps=10",
    "program=builtin:mnist/programs/3-gaussian.json",
    f"solver=dpmpp(order=3),grid=log-snr,steps=20,{MIXTURE}",
    f"solver=dpmpp(order=3),grid=log-snr,steps=6,{MIXTURE}",
    f"solver=dpmpp(order=3),grid=log-snr,steps=2,{MIXTURE}",
)


def row(model: hasten.Model, plan: hasten.Plan) -> dict[str, Any]:
    """FD and recall of a plan."""
    fast = plan.model_copy(update={"engine": "openvino", "dtype": "bfloat16"})
    sampler = hasten.build(model, fast)
    found = judged(sampler, N, real_for(model))
    values = {name: getattr(found[name], "value", None) for name in ("fd", "kd", "recall")}
    return {
        "plan": str(plan),
        "student": getattr(plan.lever("student"), "folder", None),
        "evaluations": sampler.evaluations,
        "n": N,
        **values,
        "fd_interval": [found["fd"].low, found["fd"].high],
    }


def compare_(rows: list[dict[str, Any]]) -> None:
    """Add FD as a multiple of the teacher's lowest from noise, and of its lowest from any start."""
    teacher = [one for one in rows if one["student"] is None]
    noise = min((one for one in teacher if "start=" not in one["plan"]), key=lambda one: one["fd"])
    every = min(teacher, key=lambda one: one["fd"])
    for one in rows:
        one["times_the_best_solver"] = one["fd"] / noise["fd"]
        one["times_the_best_from_any_start"] = one["fd"] / every["fd"]
        one["recall_below_the_best_solver"] = noise["recall"] - one["recall"]


def main() -> None:
    model = hasten.load("builtin:mnist")
    plans = [hasten.Plan.read(text) for text in TEACHER]
    plans = [_started(plan) for plan in plans]
    for name in STUDENTS:
        student = f"student(folder={name!r})"
        theirs = [hasten.Plan(**fields, levers=(student,)) for fields in student_plans(name)]
        plans += [*theirs, *(_smaller(plan) for plan in theirs)]
    rows = [row(model, plan) for plan in plans]
    compare_(rows)
    write("students", "the students that ship beside their teacher, OpenVINO bfloat16", rows)


def _smaller(plan: hasten.Plan) -> hasten.Plan:
    """From the smaller mixture."""
    start = plan.start.replace("builtin:mnist/starts/mixture.safetensors", SMALL)
    return plan.model_copy(update={"start": start})


def _started(plan: hasten.Plan) -> hasten.Plan:
    """A learned program with the start it was learned from."""
    held = plan.parts.learned
    return plan if held is None else plan.model_copy(update={"start": held.start})


if __name__ == "__main__":
    main()
