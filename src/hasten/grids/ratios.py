"""From noise levels sigma / alpha to a schedule's positions."""

from __future__ import annotations

import math

from hasten.core.errors import require, require_number
from hasten.core.noise_schedule import NoiseSchedule
from hasten.grids.checks import checked

NOISIEST = 80.0
"""Stands for the infinite ratio of a start without signal when the levels after it are spaced."""


def require_ends(low: float | None, high: float | None) -> None:
    """Raise unless ``low`` and ``high`` can be the ends of a grid."""
    for name, value in (("low", low), ("high", high)):
        if value is not None:
            require_number(f"grid option {name}", value, 1e-9, 1e9)
    ordered = low is None or high is None or low < high
    require(ordered, f"grid option low is {low!r}; it must be below high, which is {high!r}.")


def ends(schedule: NoiseSchedule, low: float | None, high: float | None) -> tuple[float, float]:
    """(high, low) ratios sigma / alpha, the schedule's own where none are given."""
    noisiest = schedule.at(schedule.noisy).ratio
    top = (noisiest if math.isfinite(noisiest) else NOISIEST) if high is None else high
    return top, schedule.at(schedule.low).ratio if low is None else low


def positions(
    name: str, schedule: NoiseSchedule, ratios: list[float], own: tuple[bool, bool]
) -> list[float]:
    """Positions of falling ``ratios``; a (high, low) end that is the schedule's ``own`` is
    exact."""
    places = [schedule.position(-math.log(ratio)) for ratio in ratios]
    if own[1] and len(places) > 1:
        places[-1] = schedule.low
    if own[0]:
        places[0] = schedule.noisy
    return checked(name, schedule, places)
