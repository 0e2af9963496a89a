"""One noise level, ``x = alpha * x0 + sigma * noise``. All numbers are float64."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class Level:
    """One noise level, ``x = alpha * x0 + sigma * noise``; the network is told the time ``t``."""

    t: float
    alpha: float
    sigma: float

    @staticmethod
    def batch(t: Any, alpha: Any, sigma: Any) -> Level:
        """Levels of a batch as arrays or tensors: for the formulas of a Prediction, in training."""
        return Level(t, alpha, sigma)

    @property
    def half_log_snr(self) -> float:
        """lambda = log(alpha / sigma): +inf for a clean picture, -inf for pure noise."""
        if self.sigma == 0:
            return math.inf
        return math.log(self.alpha / self.sigma) if self.alpha > 0 else -math.inf

    @property
    def ratio(self) -> float:
        """sigma / alpha, the noise level of EDM and k-diffusion; inf for pure noise."""
        return self.sigma / self.alpha if self.alpha > 0 else math.inf

    @property
    def spread(self) -> float:
        """Standard deviation of x for data of unit variance; a start is this times normal noise."""
        return math.hypot(self.alpha, self.sigma)
