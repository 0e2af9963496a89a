"""The plans that the tuner considers."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from hasten.core.errors import UserError
from hasten.core.model import Model
from hasten.core.plan import Plan

SOLVERS = (
    "ddim",
    "heun",
    "dpmpp(order=2)",
    "dpmpp(order=3)",
    "unipc(order=2)",
    "unipc(order=3)",
    "deis(order=2)",
    "deis(order=3)",
    "ipndm",
)
GRIDS = ("uniform", "quadratic", "karras", "log-snr")
STEPS = (2, 3, 4, 5, 6, 7, 8, 10, 12, 15, 20, 25, 30, 40, 50)


@dataclasses.dataclass(frozen=True)
class Line:
    """Plans that differ in their number of steps only, fewest first."""

    plans: tuple[Plan, ...]


@dataclasses.dataclass(frozen=True)
class Refused:
    """A plan the model cannot run, and why."""

    plan: Plan
    why: str


def lines(model: Model, guidance: float = 1.0) -> tuple[list[Line], list[Refused]]:
    """Every solver on every grid, without what ``model``'s path refuses."""
    kept: list[Line] = []
    refused: list[Refused] = []
    for solver in SOLVERS:
        for grid in GRIDS:
            plans = []
            for plan in _plans(solver, grid, guidance):
                try:
                    model.prediction.at(plan.levels(model.path)[0])
                    plan.trace(model.path)
                except UserError as error:
                    refused.append(Refused(plan, str(error)))
                else:
                    plans.append(plan)
            if plans:
                kept.append(Line(tuple(plans)))
    return kept, refused


def _plans(solver: str, grid: str, guidance: float) -> Iterator[Plan]:
    for steps in STEPS:
        yield Plan(solver=solver, grid=grid, steps=steps, guidance=guidance)
