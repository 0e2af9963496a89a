"""Programs that are known to be good for a family of noise schedules, the best first.

A tuner that has time for a handful of plans tries these; with more time they say how many steps are
worth searching.
"""

from __future__ import annotations

from typing import Literal

from hasten.core.model import Model
from hasten.core.noise_schedule import NoiseSchedule
from hasten.core.plan import Plan
from hasten.tuning.space import Space, StepLadder, clips, why_unsupported

Family = Literal["variance exploding", "variance preserving", "flow"]

KNOWN_GOOD: dict[Family, tuple[tuple[str, str], ...]] = {
    "variance exploding": (
        ("dpmpp(order=3)", "log-snr"),
        ("ipndm", "log-snr"),
        ("dpmpp(order=2)", "karras"),
        ("unipc(order=3)", "log-snr"),
        ("heun", "karras"),
    ),
    "variance preserving": (
        ("dpmpp(order=3)", "log-snr"),
        ("unipc(order=3)", "log-snr"),
        ("dpmpp(order=2)", "uniform"),
        ("unipc(order=2)", "uniform"),
        ("ddim", "uniform"),
    ),
    "flow": (
        ("dpmpp(order=2)", "uniform"),
        ("unipc(order=2)", "uniform"),
        ("dpmpp(order=3)", "log-snr"),
        ("heun", "uniform"),
    ),
}
"""(solver, grid) by family."""


def family(schedule: NoiseSchedule) -> Family:
    """How signal and noise are mixed: alpha = 1, alpha + sigma = 1, or alpha^2 + sigma^2 = 1 (and
    whatever is none of the three)."""
    level = schedule.at((schedule.noisy + schedule.low) / 2)
    if level.alpha == 1.0:
        return "variance exploding"
    return "flow" if abs(level.alpha + level.sigma - 1.0) < 1e-6 else "variance preserving"


def known_good(model: Model, space: Space, guidance: float) -> list[StepLadder]:
    """The ladders of ``space`` that are known to be good for ``model``, the best first: x0 clipped
    where the network sees pixels, and the best of them unclipped too."""
    pairs = [
        (solver, grid)
        for solver, grid in KNOWN_GOOD[family(model.schedule)]
        if solver in space.solvers and grid in space.grids
    ]
    bound = clips(model)[-1]
    ranked = [(solver, grid, bound) for solver, grid in pairs]
    if bound is not None:
        ranked[1:1] = [(solver, grid, None) for solver, grid in pairs[:1]]
    ladders = [
        StepLadder(
            tuple(
                plan
                for steps in space.steps
                if why_unsupported(
                    model,
                    plan := Plan(
                        solver=solver, grid=grid, steps=steps, clip=clip, guidance=guidance
                    ),
                )
                is None
            )
        )
        for solver, grid, clip in ranked
    ]
    return [ladder for ladder in ladders if ladder.plans]
