"""Multistep consistency sampling (Song et al. 2303.01469)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from itertools import pairwise

from hasten.core.ask import Denoise, Latent, Noise
from hasten.core.level import Level
from hasten.core.program import Walk
from hasten.core.solver import Solver, solvers


@solvers.add("consistency")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Consistency(Solver):
    """x' = alpha' f(x) + sigma' z (algorithm 1), for a network whose x0 is already a sample."""

    title = "consistency sampling"

    stochastic = True

    def walk(self, x: Latent, levels: Sequence[Level]) -> Walk:
        for here, there in pairwise(levels):
            x = there.alpha * (yield Denoise(x, here))
            if there.sigma > 0:
                x = x + there.sigma * (yield Noise())
        return x
