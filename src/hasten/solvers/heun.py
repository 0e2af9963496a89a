"""Heun's method, the EDM sampler (Karras et al. 2206.00364)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from hasten.core.ask import Latent
from hasten.core.level import Level
from hasten.core.program import Walk
from hasten.core.solver import solvers
from hasten.solvers.churn import Churned
from hasten.solvers.steps import heun_step


@solvers.add("heun")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Heun(Churned):
    """Algorithm 2 in x/alpha against sigma/alpha, so on any schedule: two evaluations a step, one
    on the last. Order 2."""

    title = "Heun"

    def walk(self, x: Latent, levels: Sequence[Level]) -> Walk:
        for index, there in enumerate(levels[1:]):
            x, here = yield from self.churned(x, index, levels)
            x = yield from heun_step(x, here, there)
        return x
