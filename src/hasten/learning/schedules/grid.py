"""``hasten learn grid``: the levels that suit a plan's solver, by one of three methods."""

from __future__ import annotations

from pathlib import Path

from hasten.core.errors import require, require_choice
from hasten.core.model import Model
from hasten.core.plan import Plan
from hasten.learning.programs.reference_pairs import ReferenceOptions
from hasten.learning.schedules.bezier import learn_bezier
from hasten.learning.schedules.dmn import dmn
from hasten.learning.schedules.gits import gits

METHODS = ("gits", "dmn", "bezier")


def learn_grid(
    model: Model,
    method: str,
    plan: Plan,
    *,
    run: str | Path,
    minutes: float | None = None,
    engine: str = "eager",
    seed: int = 0,
    quiet: bool = True,
) -> Plan:
    """``plan`` on the grid that ``method`` finds for its solver and number of steps.

    Args:
        method: "gits" (trajectories), "dmn" (coefficients alone) or "bezier" (one learned curve,
            fitted for half as many steps to as many).
        run: bezier's folder for pairs and checkpoints.
        minutes: bezier's budget.

    Raises:
        UserError: an unknown method, a program in the plan, a number of steps the method refuses.
    """
    require_choice("method", method, METHODS)
    require(
        plan.program is None, "plan names a program, whose levels are learned already; drop it."
    )
    require(
        minutes is None or method == "bezier",
        f"minutes is {minutes}, but method {method!r} is no training; drop it, or use bezier.",
    )
    if method == "dmn":
        learned = dmn(model.schedule, plan.model_copy(update={"clip": None}))
        return plan.model_copy(update={"grid": learned.grid})
    if method == "gits":
        there = plan.model_copy(update={"engine": engine})
        return plan.model_copy(update={"grid": gits(model, there, seed=seed).grid})
    steps = plan.parts.steps or 0
    counts = tuple(range(max(2, steps // 2), steps + 1))
    references = ReferenceOptions(guidance=plan.guidance, engine=engine, seed=seed)
    learned = learn_bezier(
        model,
        counts,
        run,
        solver=plan.solver,
        clip=plan.clip,
        references=references,
        minutes=minutes,
        quiet=quiet,
    )
    return plan.model_copy(update={"grid": learned.grid, "clip": learned.clip})
