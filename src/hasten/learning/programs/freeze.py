"""Freezing: the steps that an adaptive solver took become a grid, and so a plan with a Program."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch

from hasten.core.errors import UserError, require, require_whole
from hasten.core.level import Level
from hasten.core.model import Model
from hasten.core.plan import Plan, PlanLike, as_plan
from hasten.core.program import Walk
from hasten.core.solver import Clipped
from hasten.sampling import build
from hasten.solvers.adaptive import Adaptive, Trail
from hasten.solvers.off_grid import Between, Read


def freeze(model: Model, plan: PlanLike, *, n: int = 64, seed: int = 0, batch: int = 64) -> Plan:
    """The plan that takes for every picture the steps that ``plan``'s adaptive solver took for
    most: the median over ``n`` pictures of the half log-SNR at equal shares of their steps.

    Its other fields are those of ``plan``. With ``n`` = 1 the plan frozen from an adaptive-ode
    gives the very picture back that it was frozen from.

    Args:
        plan: its solver is adaptive-ode (frozen as dpmpp of its order, singlestep, the in-between
            levels listed too) or adaptive-sde (frozen as dpmpp-sde of order 2).
        n: how many pictures to calibrate on, labels in turn.
        seed: of their noise.
        batch: pictures at a time.

    Raises:
        UserError: the plan's solver is another one, or its grid leaves it no room for a step.
    """
    require_whole("n", n, 1, 100_000)
    plan = as_plan(plan)
    parts = plan.parts
    solver = parts.unclipped
    if not isinstance(solver, Adaptive) or plan.program is not None:
        raise UserError(
            f"solver is {plan.solver!r}, which does not choose its steps; freeze takes a plan with "
            "adaptive-ode or adaptive-sde."
        )
    watched = Watched(solver=solver)
    crossing = watched if plan.clip is None else Clipped(solver=watched, bound=plan.clip)
    sampler = build(model, plan)
    watching = dataclasses.replace(parts, solver=crossing)
    sampler = dataclasses.replace(
        sampler, resolved=dataclasses.replace(sampler.resolved, parts=watching)
    )
    condition = model.labels_in_turn(n)
    sampler.sample(n, seed=seed, condition=condition, batch=batch)
    require(
        len(watched.trails) == n,
        f"grid {plan.grid!r} with steps={plan.steps} leaves solver {plan.solver!r} no room for a "
        "step between its ends; raise steps.",
    )
    within = with_between(middle_steps(watched.trails), solver.inner())
    # The ends are the grid's own, to the bit; so is a first level without signal.
    assert parts.grid is not None
    assert parts.steps is not None
    ends = parts.grid.positions(parts.start.shortened(model.schedule), parts.steps)
    head = ends[: 2 if sampler.levels[0].alpha == 0 else 1]
    at = (*head, *(model.schedule.position(value) for value in within[1:-1]), ends[-1])
    fields = {"solver": solver.frozen(), "grid": f"given({at=})", "steps": len(at)}
    return Plan(**{**plan.model_dump(), **fields})


def middle_steps(trails: Sequence[Sequence[float]]) -> list[float]:
    """The median of rising ``trails`` at equal shares of their steps, as many as the median has."""
    count = round(float(np.median([len(trail) - 1 for trail in trails])))
    shares = np.linspace(0.0, 1.0, count + 1)
    read = [np.interp(shares, np.linspace(0.0, 1.0, len(trail)), trail) for trail in trails]
    return np.median(np.stack(read), axis=0).tolist()


def with_between(values: Sequence[float], inner: int) -> list[float]:
    """``values`` with ``inner`` - 1 more, evenly, between each two."""
    out = [values[0]]
    for value, following in pairwise(values):
        out += [value + (following - value) * k / inner for k in range(1, inner)]
        out.append(following)
    return out


@dataclasses.dataclass(frozen=True, kw_only=True)
class Watched(Between):
    """An adaptive solver that keeps in ``trails`` the steps of every picture it makes, in order."""

    solver: Adaptive
    trails: Trail = dataclasses.field(default_factory=list)

    def draws_noise(self) -> bool:
        return self.solver.draws_noise()

    def inside(self, x: torch.Tensor, levels: Sequence[Level], read: Read) -> Walk:
        x, trail = yield from self.solver.crossed(x, levels, read)
        self.trails.extend(trail)
        return x
