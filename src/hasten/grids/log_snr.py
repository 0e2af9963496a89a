"""Evenly in log-SNR (Lu et al. 2206.00927)."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from hasten.core.grid import Grid, grids
from hasten.core.noise_schedule import NoiseSchedule
from hasten.grids.ratios import ends, positions, require_ends


@grids.add("log-snr")
@dataclasses.dataclass(frozen=True, kw_only=True)
class LogSNR(Grid):
    """log(sigma / alpha) falls evenly from ``high`` to ``low``, ratios sigma / alpha; None is the
    schedule's own end. A start without signal is kept, and the levels after it are spaced as if it
    lay at 80."""

    title = "log-SNR levels"

    low: float | None = None
    high: float | None = None

    def __post_init__(self) -> None:
        require_ends(self.low, self.high)

    def positions(self, schedule: NoiseSchedule, steps: int) -> list[float]:
        high, low = ends(schedule, self.low, self.high)
        logs = np.linspace(math.log(high), math.log(low), steps)
        own = (self.high is None, self.low is None)
        return positions("log-snr", schedule, np.exp(logs).tolist(), own)
