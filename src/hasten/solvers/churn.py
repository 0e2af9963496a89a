"""Churn: some noise put back before each step (Karras et al. 2206.00364, algorithm 2)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Generator, Sequence

from hasten.core.ask import Ask, Latent, Noise
from hasten.core.errors import require, require_number
from hasten.core.level import Level
from hasten.core.solver import Solver


@dataclasses.dataclass(frozen=True, kw_only=True)
class Churned(Solver):
    """A solver that raises the noise by a factor ``1 + min(churn / steps, sqrt(2) - 1)`` before
    each step whose ratio sigma / alpha lies in [s_min, s_max].

    The raised level is not on the grid, and a walk knows no schedule: the time the network is given
    is read between the grid's levels, linear in log-SNR (beyond the first level, along the line
    through the first two). That is exact on the EDM schedule and an approximation on others. A
    first level without signal, or with no second one to measure by, is not raised.
    """

    churn: float = 0.0
    s_min: float = 0.0
    s_max: float = 1e9
    s_noise: float = 1.0

    def __post_init__(self) -> None:
        require_number("solver option churn", self.churn, 0.0, 1e6)
        require_number("solver option s_min", self.s_min, 0.0, 1e9)
        require_number("solver option s_max", self.s_max, 0.0, 1e9)
        require_number("solver option s_noise", self.s_noise, 0.0, 10.0)
        ordered = self.s_min <= self.s_max
        require(ordered, f"solver option s_min is {self.s_min!r}; it must not exceed s_max.")

    def draws_noise(self) -> bool:
        return self.churn > 0

    def churned(
        self, x: Latent, index: int, levels: Sequence[Level]
    ) -> Generator[Ask, Latent, tuple[Latent, Level]]:
        """``x`` at ``levels[index]`` with noise put back, and the level it then lies at."""
        here = levels[index]
        factor = min(self.churn / (len(levels) - 1), math.sqrt(2) - 1)
        if factor == 0 or not self.s_min <= here.ratio <= self.s_max:
            return x, here
        raised = read_between(levels, here.half_log_snr - math.log1p(factor))
        if raised is None or here.alpha == 0:
            return x, here
        fresh = self.s_noise * here.ratio * math.sqrt(factor * (2 + factor))
        x = (raised.alpha / here.alpha) * x + (raised.alpha * fresh) * (yield Noise())
        return x, raised


def read_between(levels: Sequence[Level], half_log_snr: float) -> Level | None:
    """The level at ``half_log_snr`` on the line through its two neighbours in ``levels``, or None
    where fewer than two levels have a finite log-SNR."""
    known = [level for level in levels if math.isfinite(level.half_log_snr)]
    if len(known) < 2:
        return None
    above = sum(level.half_log_snr <= half_log_snr for level in known) - 1
    first, second = known[(start := min(max(above, 0), len(known) - 2)) : start + 2]
    length = second.half_log_snr - first.half_log_snr
    share = (half_log_snr - first.half_log_snr) / length
    t = first.t + share * (second.t - first.t)
    # alpha is 1 on a variance-exploding schedule, alpha + sigma on a rectified flow, hypot on a
    # variance-preserving one: whichever the two neighbours agree on holds between them too.
    ratio = math.exp(-half_log_snr)
    sizes = [
        (first.alpha, second.alpha, 1.0),
        (first.alpha + first.sigma, second.alpha + second.sigma, 1 + ratio),
        (first.spread, second.spread, math.hypot(1, ratio)),
    ]
    start_size, end_size, unit = min(sizes, key=lambda size: abs(math.log(size[1] / size[0])))
    alpha = start_size ** (1 - share) * end_size**share / unit
    return Level(t, alpha, alpha * ratio)
