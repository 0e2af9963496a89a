"""Positions at equal distances."""

from __future__ import annotations

import dataclasses

import numpy as np

from hasten.core.errors import require, require_choice, require_whole
from hasten.core.grid import Grid, grids
from hasten.core.level import Array
from hasten.core.noise_schedule import NoiseSchedule
from hasten.grids.checks import checked, entries


@grids.add("uniform")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Uniform(Grid):
    """The spacings of Lin et al. 2305.08891, table 2.

    On a table of 1000 levels with 10 steps: "trailing" is 999, 899, ..., 99; "leading" 900, ..., 0
    plus ``offset``; "linspace" 999, 888, ..., 0, in whole numbers as diffusers has them while steps
    are no more than levels. On a continuous schedule trailing is 1, 1 - 1/n, ..., 1/n of its
    length, leading the same moved down to end at its lowest position. One step starts at the noisy
    end, except where it leads.
    """

    title = "uniform levels"

    spacing: str = "trailing"
    offset: int = 0

    def __post_init__(self) -> None:
        spacings = ["trailing", "leading", "linspace"]
        require_choice("grid option spacing", self.spacing, spacings)
        require_whole("grid option offset", self.offset, 0, 100_000)
        leads = self.offset == 0 or self.spacing == "leading"
        require(leads, f"grid option offset is {self.offset}; it goes with spacing='leading' only.")

    def positions(self, schedule: NoiseSchedule, steps: int) -> list[float]:
        table = entries(schedule)
        require(
            self.offset == 0 or table > 0,
            f"grid option offset is {self.offset}; it counts levels, and this schedule has no "
            "table.",
        )
        whole = steps <= table
        places = self._places(schedule, steps, -1.0 if table else 0.0, whole)
        return checked("uniform", schedule, places.tolist())

    def _places(self, schedule: NoiseSchedule, steps: int, origin: float, whole: bool) -> Array:
        length = schedule.noisy - origin
        if self.spacing == "leading":
            stride = (
                length // steps if whole else (schedule.noisy - schedule.low) / max(steps - 1, 1)
            )
            stride = min(stride, length / steps)
            return schedule.low + self.offset + stride * np.arange(steps, dtype=np.float64)[::-1]
        if self.spacing == "trailing" and origin + length / steps >= schedule.low:
            # Rounded before the origin is added, as diffusers does: halves go to the even number.
            places = length - length * np.arange(steps, dtype=np.float64) / steps
            return (np.round(places) if whole else places) + origin
        places = np.linspace(schedule.noisy, schedule.low, steps)
        return np.round(places) if whole else places
