"""The grid of EDM (Karras et al. 2206.00364)."""

from __future__ import annotations

import dataclasses

import numpy as np

from hasten.core.errors import require_number
from hasten.core.grid import Grid, grids
from hasten.core.noise_schedule import NoiseSchedule
from hasten.grids.ratios import ends, positions, require_ends


@grids.add("karras")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Karras(Grid):
    """sigma / alpha to the power 1 / ``rho`` falls evenly from ``high`` to ``low`` (eq. 5); None is
    the schedule's own end. A start without signal is kept, and the levels after it are spaced as if
    it lay at 80."""

    title = "Karras levels"

    rho: float = 7.0
    low: float | None = None
    high: float | None = None

    def __post_init__(self) -> None:
        require_number("grid option rho", self.rho, 0.1, 100.0)
        require_ends(self.low, self.high)

    def positions(self, schedule: NoiseSchedule, steps: int) -> list[float]:
        high, low = ends(schedule, self.low, self.high)
        roots = np.linspace(high ** (1 / self.rho), low ** (1 / self.rho), steps)
        own = (self.high is None, self.low is None)
        return positions("karras", schedule, (roots**self.rho).tolist(), own)
