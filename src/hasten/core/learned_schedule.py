"""A noise schedule whose shape is learned with the network."""

from __future__ import annotations

import dataclasses

import numpy as np

from hasten.core.errors import require
from hasten.core.level import Array
from hasten.core.noise_schedule import NoiseSchedule, schedules


@schedules.add("learned")
@dataclasses.dataclass(frozen=True, kw_only=True)
class LearnedSchedule(NoiseSchedule):
    """A monotone network for log-SNR (Kingma et al. 2107.00630, appendix H).

    Positions are fractions in [0, 1]; ``-2 lambda`` there is ``ends[0] + (ends[1] - ends[0]) *
    shape(position)`` with a shape that rises from 0 to 1: ``scale * p + sum_k out_k *
    sigmoid(slope_k * p + bias_k)``, normalised, all weights non-negative. The network is told
    ``1000 * shape``, so that its time means the same while the shape is still being learned.
    """

    ends: tuple[float, float] = (-13.3, 5.0)
    scale: float = 1.0
    slope: tuple[float, ...] = ()
    bias: tuple[float, ...] = ()
    out: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        for name in ("ends", "slope", "bias", "out"):
            object.__setattr__(self, name, tuple(float(value) for value in getattr(self, name)))
        require(self.ends[0] < self.ends[1], "schedule option ends must rise (least noise first).")
        sizes = {len(self.slope), len(self.bias), len(self.out)}
        require(len(sizes) == 1, "schedule options slope, bias and out must have one length.")
        weights = (self.scale, *self.slope, *self.out)
        require(self.scale > 0 and min(weights) >= 0, "a learned schedule needs weights >= 0.")

    @property
    def noisy(self) -> float:
        return 1.0

    @property
    def low(self) -> float:
        return 0.0

    @property
    def clean(self) -> float:
        return -1.0

    def _raw(self, position: Array) -> Array:
        inner = np.multiply.outer(position, np.asarray(self.slope)) + np.asarray(self.bias)
        return self.scale * position + (1 / (1 + np.exp(-inner))) @ np.asarray(self.out)

    def _shape(self, position: Array) -> Array:
        first, last = self._raw(np.asarray(0.0)), self._raw(np.asarray(1.0))
        return (self._raw(position) - first) / (last - first)

    def curve(self, position: Array) -> tuple[Array, Array, Array]:
        shape = self._shape(np.clip(position, 0.0, 1.0))
        gamma = self.ends[0] + (self.ends[1] - self.ends[0]) * shape
        alpha, sigma = np.sqrt(1 / (1 + np.exp(gamma))), np.sqrt(1 / (1 + np.exp(-gamma)))
        # Below 0 the schedule goes straight to a clean picture, as a table's entry before its
        # first.
        rest = np.clip(1 + position, 0.0, 1.0)
        sigma = np.where(position < 0, sigma * rest, sigma)
        return 1000.0 * shape, np.where(position < 0, np.sqrt(1 - sigma**2), alpha), sigma

    def position(self, half_log_snr: float) -> float:
        gamma = min(max(-2.0 * half_log_snr, self.ends[0]), self.ends[1])
        target = (gamma - self.ends[0]) / (self.ends[1] - self.ends[0])
        low, high = 0.0, 1.0
        for _ in range(60):  # bisection to float64
            middle = 0.5 * (low + high)
            if float(self._shape(np.asarray(middle))) < target:
                low = middle
            else:
                high = middle
        return 0.5 * (low + high)
