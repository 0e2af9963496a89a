"""Positions as squares: more of them near the clean end."""

from __future__ import annotations

import dataclasses

import numpy as np

from hasten.core.errors import require_number
from hasten.core.grid import Grid, grids
from hasten.core.noise_schedule import NoiseSchedule
from hasten.grids.checks import checked, entries

HARDLY_ANY_SIGNAL = 10.0


@grids.add("quadratic")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Quadratic(Grid):
    """The "quad" spacing of DDIM's code (Song et al. 2010.02502, appendix D.2): the square of
    evenly spaced numbers, between table entries too.

    ``top`` is where it starts, as a share of the schedule. None is DDIM's 0.8 where that is noise
    already (sigma > 10 alpha), else 1.
    """

    title = "quadratic levels"

    top: float | None = None

    def __post_init__(self) -> None:
        if self.top is not None:
            require_number("grid option top", self.top, 0.01, 1.0)

    def positions(self, schedule: NoiseSchedule, steps: int) -> list[float]:
        share = 0.8 if self.top is None else self.top
        start = min(share * (entries(schedule) or schedule.noisy), schedule.noisy)
        if self.top is None and schedule.at(start).ratio < HARDLY_ANY_SIGNAL:
            start = schedule.noisy
        places = schedule.low + (start - schedule.low) * np.linspace(1.0, 0.0, steps) ** 2
        return checked("quadratic", schedule, places.tolist())
