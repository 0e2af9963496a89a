"""Euler's method, with the option of noise put back (Karras et al. 2206.00364)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from hasten.core.ask import Denoise, Latent
from hasten.core.level import Level
from hasten.core.program import Walk
from hasten.core.solver import solvers
from hasten.solvers.churn import Churned
from hasten.solvers.steps import exponential_step


@solvers.add("euler")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Euler(Churned):
    """Algorithm 2 without its correction: Euler's step in x/alpha against sigma/alpha. Order 1.

    Euler's step along a straight path is the same one, and so is DDIM; what this adds is churn.
    """

    title = "Euler"

    def walk(self, x: Latent, levels: Sequence[Level]) -> Walk:
        for index, there in enumerate(levels[1:]):
            x, here = yield from self.churned(x, index, levels)
            x0 = yield Denoise(x, here)
            x = exponential_step(x, x0, here, there)
        return x
