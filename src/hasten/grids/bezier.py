"""One curve for every number of steps (BezierFlow)."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from hasten.core.errors import require, require_number
from hasten.core.grid import Grid, grids
from hasten.core.level import Array
from hasten.core.noise_schedule import NoiseSchedule
from hasten.grids.ratios import ends, positions


@grids.add("bezier")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Bezier(Grid):
    """log(sigma / alpha) falls along a Bezier curve from the schedule's noisy end to ``end`` of the
    way to its cleanest level; ``points`` are the curve's inner control points, rising from 0 to 1.
    The curve is visited at equal distances of its parameter, whatever the number of steps, and
    ``hasten learn grid --method bezier`` learns it.
    """

    title = "Bezier levels"

    points: tuple[float, ...]
    end: float = 1.0

    def __post_init__(self) -> None:
        listed = isinstance(self.points, (tuple, list)) and len(self.points) > 0
        require(listed, f"grid option points is {self.points!r}; give them as (0.2, 0.5, 0.8).")
        for point in self.points:
            require_number("grid option points", point, 0.0, 1.0)
        require_number("grid option end", self.end, 0.05, 1.0)
        object.__setattr__(self, "points", tuple(float(point) for point in self.points))
        rising = list(self.points) == sorted(self.points)
        require(rising, f"grid option points is {self.points!r}; control points must rise.")

    def positions(self, schedule: NoiseSchedule, steps: int) -> list[float]:
        high, low = (math.log(ratio) for ratio in ends(schedule, None, None))
        weights = bernstein(max(steps, 2), len(self.points))[:steps]
        share = self.end * (weights @ np.array([0.0, *self.points, 1.0]))
        own = (True, self.end == 1.0 and steps > 1)
        return positions("bezier", schedule, np.exp(high + share * (low - high)).tolist(), own)


def bernstein(steps: int, points: int) -> Array:
    """(steps, points + 2): how much each control point, the fixed ends 0 and 1 included, weighs at
    evenly spaced parameters of the curve."""
    at = np.linspace(0, 1, steps)
    n = points + 1
    weights = [math.comb(n, k) * at**k * (1 - at) ** (n - k) for k in range(n + 1)]
    return np.stack(weights, axis=-1)
