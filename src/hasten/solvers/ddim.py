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
from hasten.solvers.steps import ancestral_sigma, noise_in


@solvers.add("ddim")
@dataclasses.dataclass(frozen=True, kw_only=True)
class DDIM(Solver):
    """x' = alpha' x0 + sqrt(sigma'^2 - s^2) eps + s z (eq. 12); ``eta`` = 0 draws no noise, 1 is
    ancestral. Order 1."""

    title = "DDIM"

    eta: float = 0.0

    def __post_init__(self) -> None:
        require_number("solver option eta", self.eta, 0.0, 1.0)

    def draws_noise(self) -> bool:
        return self.eta > 0

    def walk(self, x: Latent, levels: Sequence[Level]) -> Walk:
        for here, there in pairwise(levels):
            x0 = yield Denoise(x, here)
            fresh = self.eta * ancestral_sigma(here, there)
            remaining = math.sqrt(there.sigma**2 - fresh**2)
            x = there.alpha * x0 + remaining * noise_in(x, x0, here)
            if fresh > 0:
                x = x + fresh * (yield Noise())
        return x
