"""Restart sampling (Xu et al. 2306.14878)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from itertools import pairwise

from hasten.core.ask import Latent, Noise
from hasten.core.errors import require, require_number, require_whole
from hasten.core.level import Level
from hasten.core.program import Walk
from hasten.core.solver import Solver, solvers
from hasten.solvers.steps import heun_step


@solvers.add("restart")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Restart(Solver):
    """Heun's method that goes back ``repeats`` times: once at ratio sigma / alpha = ``low``, it
    adds noise up to ``high`` and comes down again in at most ``steps`` steps (algorithm 1).

    Both ends are the grid's levels nearest in log-SNR (two neighbours at least), and so are the
    levels between, so the network is asked at no other level. A grid with a single level between
    pure noise and a clean picture has no interval to repeat and is crossed once.
    """

    title = "Restart"

    stochastic = True
    repeats: int = 2
    steps: int = 3
    low: float = 0.06
    high: float = 0.30

    def __post_init__(self) -> None:
        require_whole("solver option repeats", self.repeats, 1, 1000)
        require_whole("solver option steps", self.steps, 1, 1000)
        require_number("solver option low", self.low, 1e-6, 1e6)
        require_number("solver option high", self.high, 1e-6, 1e6)
        ordered = self.low < self.high
        require(ordered, f"solver option low is {self.low!r}; it must be below high.")

    def walk(self, x: Latent, levels: Sequence[Level]) -> Walk:
        again = self._interval(levels)
        for here, there in pairwise(levels):
            x = yield from heun_step(x, here, there)
            if not again or there != again[-1]:
                continue
            high, low = again[0], again[-1]
            fresh = math.sqrt((high.ratio - low.ratio) * (high.ratio + low.ratio))
            for _ in range(self.repeats):
                x = (high.alpha / low.alpha) * x + (high.alpha * fresh) * (yield Noise())
                for start, end in pairwise(again):
                    x = yield from heun_step(x, start, end)
        return x

    def _interval(self, levels: Sequence[Level]) -> list[Level]:
        """The grid's levels from about ``high`` to about ``low``, ``steps`` + 1 of them at most."""
        known = [level for level in levels if math.isfinite(level.half_log_snr)]
        if len(known) < 2:
            return []
        top = min(_nearest(known, self.high), len(known) - 2)
        bottom = max(_nearest(known, self.low), top + 1)
        steps = min(self.steps, bottom - top)
        return [known[top + round((bottom - top) * k / steps)] for k in range(steps + 1)]


def _nearest(levels: Sequence[Level], ratio: float) -> int:
    return min(range(len(levels)), key=lambda k: abs(levels[k].half_log_snr + math.log(ratio)))
