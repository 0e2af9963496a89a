"""What every grid promises about its positions."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from hasten.core.errors import require
from hasten.core.noise_schedule import Discrete, NoiseSchedule


def checked(name: str, schedule: NoiseSchedule, positions: Sequence[float]) -> list[float]:
    """``positions``, which must fall strictly and lie where the network was trained.

    Raises:
        UserError: they do not.
    """
    places = [float(place) for place in positions]
    for before, after in pairwise(places):
        require(
            before > after,
            f"grid {name!r} puts position {after:g} after {before:g}; positions must fall. "
            "Use fewer steps or another grid.",
        )
    slack = 1e-9 * max(abs(schedule.noisy), 1e-3)
    require(
        schedule.low - slack <= places[-1] and places[0] <= schedule.noisy + slack,
        f"grid {name!r} visits {places[0]:g} to {places[-1]:g}; this schedule's positions lie "
        f"between {schedule.noisy:g} and {schedule.low:g}.",
    )
    return [min(max(place, schedule.low), schedule.noisy) for place in places]


def entries(schedule: NoiseSchedule) -> int:
    """How many levels the schedule's table has; 0 where time is continuous."""
    return len(schedule.alphas_cumprod) if isinstance(schedule, Discrete) else 0
