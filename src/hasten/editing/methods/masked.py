"""Inpainting by replacement, with resampling (RePaint, Lugmayr et al. 2201.09865)."""

from __future__ import annotations

import dataclasses
import math
from itertools import pairwise

from hasten.core.ask import Denoise, Noise
from hasten.core.errors import require_whole
from hasten.core.program import Walk
from hasten.editing.method import Given, Method, methods, require_strength
from hasten.solvers.steps import exponential_step


@methods.add("masked")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Masked(Method):
    """Fills in the mask, from noise where ``strength`` is 1; outside it the source is kept at every
    level. With ``resample`` above 1, every step is taken back and repeated so often (their
    algorithm 1), which makes what is filled in fit what is around it."""

    strength: float = 1.0
    resample: int = 1

    needs_mask = True

    def __post_init__(self) -> None:
        require_strength(self.strength)
        require_whole("method option resample", self.resample, 1, 100)

    def walk(self, given: Given) -> Walk:
        levels = given.last(self.strength)
        x = given.noised(levels[0])
        if self.resample == 1:
            return (yield from given.solver.walk(x, levels))
        for here, there in pairwise(levels):
            for left in reversed(range(self.resample)):
                x0 = yield Denoise(x, here)
                x = exponential_step(x, x0, here, there)
                if there.sigma == 0:
                    break
                if left:  # back to the level before, with fresh noise
                    share = here.alpha / there.alpha
                    added = math.sqrt(max(here.sigma**2 - (share * there.sigma) ** 2, 0.0))
                    x = share * x + added * (yield Noise())
        return x
