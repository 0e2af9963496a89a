"""iPNDM (Liu et al. 2202.09778, without its Runge-Kutta start, as in Zhang & Chen 2204.13902)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from itertools import pairwise

from hasten.core.ask import Denoise, Latent
from hasten.core.errors import require_whole
from hasten.core.level import Level
from hasten.core.program import Walk
from hasten.core.solver import Solver, solvers
from hasten.solvers.steps import noise_kept

ADAMS_BASHFORTH = ((), (-1 / 2,), (-16 / 12, 5 / 12), (-59 / 24, 37 / 24, -9 / 24))
"""Weights of the older slopes for orders 1 to 4; all weights of an order sum to 1."""


@solvers.add("ipndm")
@dataclasses.dataclass(frozen=True, kw_only=True)
class IPNDM(Solver):
    """Adams-Bashforth with its constant-step weights on the noise, in x/alpha against sigma/alpha,
    with the order rising from 1. Order ``order`` where sigma / alpha is evenly spaced; elsewhere
    at most 2, yet better at few steps than weights fitted to the spacing."""

    title = "iPNDM"

    order: int = 4

    def __post_init__(self) -> None:
        require_whole("solver option order", self.order, 1, 4)

    def walk(self, x: Latent, levels: Sequence[Level]) -> Walk:
        noises: list[Latent] = []
        for here, there in pairwise(levels):
            x0 = yield Denoise(x, here)
            if there.sigma == 0:
                return there.alpha * x0
            noises = [(yield noise_kept(x, x0, here)), *noises][: self.order]
            x = there.alpha * x0 + there.sigma * noises[0]
            if len(noises) > 1:
                length = there.alpha * (there.ratio - here.ratio)
                weights = ADAMS_BASHFORTH[len(noises) - 1]
                for weight, noise in zip(weights, noises[1:], strict=True):
                    x = x + (length * weight) * (noise - noises[0])
        return x
