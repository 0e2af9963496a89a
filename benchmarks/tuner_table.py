"""Cost and quality of some 200 plans of a model, for searches to be replayed on.

``python -m benchmarks.tuner_table mnist`` measures ``builtin:mnist`` in minutes, ``cifar10``
measures ``models/cifar10`` in an hour; an interrupted run goes on where it was. Every plan is run
once on the same noises. Its cost is counted in network evaluations, which no busy machine
changes.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import sys
from pathlib import Path
from typing import Any

import torch

import hasten
from benchmarks.results_io import read, write
from hasten.core.errors import HastenError
from hasten.core.plan import Plan, as_plan
from hasten.measuring.ode_error import Reference, reference, reference_plan
from hasten.sampling import prepare
from hasten.tuning.known_good import known_good
from hasten.tuning.space import SOLVERS, Space

MODELS = {"mnist": "builtin:mnist", "cifar10": "models/cifar10"}
SPACE = Space(
    solvers=tuple(solver for solver in SOLVERS if solver != "deis(order=2)"),
    steps=(3, 4, 5, 6, 8, 10),
)
PICTURES = {"mnist": 64, "cifar10": 32}
ENGINE, MOST_PLANS = "openvino", 200


@dataclasses.dataclass(frozen=True, kw_only=True)
class Entry:
    """What a plan costs and how far each of its pictures is from the converged solution."""

    plan: Plan
    evaluations: int
    errors: tuple[float, ...]


def plans_of(model: hasten.Model) -> list[Plan]:
    """Every solver on every grid with 3 to 10 steps, clipped where the network sees pixels, and the
    best known one unclipped."""
    ladders, _ = SPACE.ladders(model, 1.0)
    plans = [plan for ladder in ladders for plan in ladder.plans if plan.clip == model.codec.bound]
    solver, grid = known_good(model.schedule)[0]
    best = [plan for plan in plans if (plan.solver, plan.grid) == (solver, grid)]
    unclipped = [plan.model_copy(update={"clip": None}) for plan in best if plan.clip is not None]
    assert len(plans) + len(unclipped) <= MOST_PLANS
    return plans + unclipped


def measured(name: str) -> None:
    """``results/tuner_table_NAME.json``, by way of a file of finished rows under runs/."""
    model = hasten.load(MODELS[name])
    journal = Path(f"runs/tuner_table_{name}.jsonl")
    journal.parent.mkdir(exist_ok=True)
    rows = (
        [json.loads(line) for line in journal.read_text().splitlines()] if journal.exists() else []
    )
    known = {row["plan"] for row in rows}
    net = prepare(model, Plan(engine=ENGINE))
    solution = functools.cache(lambda: _reference(model, name))
    for plan in plans_of(model):
        if str(plan) in known:
            continue
        try:
            errors = solution().errors(plan.model_copy(update={"engine": ENGINE}), net, batch=16)
        except HastenError as error:
            print(f"{plan}: {error}")
            continue
        row = {
            "plan": str(plan),
            "evaluations": plan.trace(model.schedule).evaluations,
            "errors": [float(f"{float(value):.4g}") for value in errors],
        }
        rows.append(row)
        with journal.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(len(rows), plan, f"{sum(row['errors']) / PICTURES[name]:.4f}", flush=True)
    what = (
        f"{name}: ODE error of each of {PICTURES[name]} pictures by plan, against "
        f"{reference_plan()}, in {ENGINE} float32"
    )
    write(f"tuner_table_{name}", what, rows)


def _reference(model: hasten.Model, name: str) -> Reference:
    """The converged solution, kept under runs/."""
    file = Path(f"runs/tuner_reference_{name}.pt")
    plan = reference_plan(engine=ENGINE)
    if not file.exists():
        solution = reference(model, PICTURES[name], plan=plan, batch=16)
        torch.save((solution.noise, solution.condition, solution.pictures), file)
    noise, condition, pictures = torch.load(file)
    return Reference(model=model, plan=plan, noise=noise, condition=condition, pictures=pictures)


def table(name: str) -> list[Entry]:
    """The entries of a committed table."""
    rows: list[dict[str, Any]] = read(f"tuner_table_{name}")["rows"]
    return [
        Entry(
            plan=as_plan(row["plan"]), evaluations=row["evaluations"], errors=tuple(row["errors"])
        )
        for row in rows
    ]


if __name__ == "__main__":
    for model_name in sys.argv[1:] or MODELS:
        measured(model_name)
