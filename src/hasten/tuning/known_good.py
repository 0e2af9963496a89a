"""Programs that are known to be good for a family of noise schedules, the best first."""

from __future__ import annotations

from typing import Literal

from hasten.core.noise_schedule import NoiseSchedule
from hasten.core.plan import Plan

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
        ("unipc(order=2)", "uniform"),
        ("dpmpp(order=2)", "uniform"),
        ("ipndm", "uniform"),
        ("deis(order=3)", "uniform"),
        ("dpmpp(order=3)", "log-snr"),
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


def known_good(schedule: NoiseSchedule) -> list[tuple[str, str]]:
    """(solver, grid), as plans write them, that are known to be good for ``schedule``, the best
    first."""
    plans = (Plan(solver=solver, grid=grid) for solver, grid in KNOWN_GOOD[family(schedule)])
    return [(plan.solver or "", plan.grid or "") for plan in plans]
