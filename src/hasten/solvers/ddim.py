"""DDIM (Song et al. 2010.02502)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from itertools import pairwise

from hasten.core.ask import Denoise, Latent, Noise
from hasten.core.errors import require_number
from hasten.core.level import Level
from hasten.core.program import Walk
from hasten.core.solver import Solver, solvers


@solvers.add("ddim")
@dataclasses.dataclass(frozen=True, kw_only=True)
class DDIM(Solver):
    """x' = alpha' x0 + sqrt(sigma'^2 - s^2) eps + s z (eq. 12); ``eta`` = 0 draws no noise, 1 is
    ancestral. Order 1."""

    eta: float = 0.0

    def __post_init__(self) -> None:
        require_number("solver option eta", self.eta, 0.0, 1.0)

    def draws_noise(self) -> bool:
        return self.eta > 0

    def walk(self, x: Latent, levels: Sequence[Level]) -> Walk:
        for here, there in pairwise(levels):
            x0 = yield Denoise(x, here)
            noise = (x - here.alpha * x0) / here.sigma
            fresh = self.eta * ancestral_sigma(here, there)
            x = there.alpha * x0 + math.sqrt(there.sigma**2 - fresh**2) * noise
            if fresh > 0:
                x = x + fresh * (yield Noise())
        return x


def ancestral_sigma(here: Level, there: Level) -> float:
    """Standard deviation of the posterior q(x_there | x_here, x0) (eq. 16 with eta = 1)."""
    kept = here.alpha / there.alpha * there.sigma / here.sigma
    return there.sigma * math.sqrt(max(0.0, 1 - kept**2))
