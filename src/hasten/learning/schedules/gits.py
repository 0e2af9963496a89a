"""A grid from the curvature of a few trajectories (GITS, 2405.11326).

Where trajectories are straight a step may be long. A fine run of the model's own solution says how
far one Euler step from each of its levels to each later one would miss; dynamic programming finds
the levels whose misses add up to the least.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import torch

from hasten.core.call import Answer, Call
from hasten.core.errors import require, require_number, require_whole
from hasten.core.level import Array, Level
from hasten.core.model import Model
from hasten.core.plan import Plan
from hasten.core.random_streams import Seed
from hasten.sampling import build


def gits(
    model: Model,
    plan: Plan,
    *,
    n: int = 64,
    fine: int = 60,
    penalty: float = 1.15,
    seed: int = 0,
) -> Plan:
    """``plan`` on the grid that costs its ``steps`` the least.

    Args:
        n: trajectories.
        fine: levels of each, from which the grid is chosen.
        penalty: how much more the misses of later steps weigh for each step before them.

    Raises:
        UserError: an argument out of range, or more steps than the fine run has levels.
    """
    require_whole("n", n, 1, 100_000)
    require_whole("fine", fine, 2, 10_000)
    require_number("penalty", penalty, 0.1, 10.0)
    steps = plan.parts.steps or 0
    require(0 < steps <= fine, f"steps is {steps}; a fine run of {fine} levels has fewer.")
    teacher = Plan(
        solver="ipndm", grid="log-snr", steps=fine, guidance=plan.guidance, engine=plan.engine
    )
    levels, x, x0, end = _trajectories(model, teacher, n, seed)
    places = _cheapest(_misses(levels, x, x0, end), steps, penalty)
    positions = [
        float(f"{model.schedule.position(levels[i].half_log_snr):.6g}") for i in places[1:]
    ]
    top = model.schedule.noisy
    return plan.model_copy(update={"grid": f"given(at={(float(top), *positions)})"})


def _trajectories(
    model: Model, plan: Plan, n: int, seed: int
) -> tuple[list[Level], torch.Tensor, torch.Tensor, torch.Tensor]:
    """The levels, and x and x0 (levels, n, d) there, of ``n`` starts; and where they end (n, d)."""
    sampler = build(model, plan)
    seen: list[tuple[Level, torch.Tensor, torch.Tensor]] = []

    def recording(calls: Sequence[Call]) -> list[Answer]:
        answers = sampler.denoiser(calls)
        for call, answer in zip(calls, answers, strict=True):
            seen.append((call.levels[0], call.x.flatten(1).cpu(), answer.x0.flatten(1).cpu()))
        return answers

    watched = dataclasses.replace(sampler, denoiser=recording)
    condition = model.labels_in_turn(n)
    end = watched.sample(n, seed=seed + Seed.GITS, condition=condition, raw=True, batch=n)
    levels = [level for level, _, _ in seen]
    x, x0 = torch.stack([x for _, x, _ in seen]), torch.stack([x0 for _, _, x0 in seen])
    return levels, x, x0, end.flatten(1)


def _misses(levels: list[Level], x: torch.Tensor, x0: torch.Tensor, end: torch.Tensor) -> Array:
    """(m, m + 1): how far an Euler step from level i misses the trajectory at level j > i, the
    clean end last: the root mean square of x / alpha, times what would be left of it at the end if
    the pictures were Gaussian (without that, misses among noise would count for all)."""
    m = len(levels)
    spread = float(end.std())
    out = np.full((m, m + 1), np.inf)
    for i, here in enumerate(levels):
        slope = (x[i] - here.alpha * x0[i]) / here.sigma
        for j in range(i + 1, m + 1):
            there = Level(0.0, 1.0, 0.0) if j == m else levels[j]
            aim = end if j == m else x[j] / there.alpha
            miss = float((x0[i] + there.ratio * slope - aim).square().mean().sqrt())
            out[i, j] = miss * spread / math.hypot(spread, there.ratio)
    return out


def _cheapest(misses: Array, steps: int, penalty: float) -> list[int]:
    """From level 0 to the end in ``steps`` steps: the levels where they start."""
    m = len(misses)
    best = np.full((steps + 1, m + 1), np.inf)
    after = np.zeros((steps + 1, m + 1), dtype=int)
    best[0, m] = 0.0
    for k in range(1, steps + 1):
        for i in range(m):
            costs = misses[i, i + 1 :] + penalty * best[k - 1, i + 1 :]
            place = int(np.argmin(costs))
            best[k, i], after[k, i] = costs[place], i + 1 + place
    places, here = [], 0
    for k in range(steps, 0, -1):
        places.append(here)
        here = int(after[k, here])
    return places
