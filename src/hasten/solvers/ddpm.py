"""DDPM's ancestral sampler (Ho et al. 2006.11239)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from itertools import pairwise

from hasten.core.ask import Denoise, DenoiseWithVariance, Latent, Noise, Scatter
from hasten.core.errors import require_choice
from hasten.core.level import Level
from hasten.core.program import Walk
from hasten.core.solver import Solver, solvers
from hasten.solvers.steps import ancestral_step, gain


@solvers.add("ddpm")
@dataclasses.dataclass(frozen=True, kw_only=True)
class DDPM(Solver):
    """Draws x' from the posterior q(x' | x, x0) (eq. 7), between any two levels. Order 1.

    ``variance``: "small" is that of the posterior, "large" that of the forward step (beta_t),
    "learned" lies between the two where the network says (2102.09672, eq. 15). The step to a clean
    picture, where the small one is 0, draws nothing.
    """

    title = "DDPM"

    stochastic = True
    variance: str = "small"

    def __post_init__(self) -> None:
        require_choice("solver option variance", self.variance, ["small", "large", "learned"])

    def walk(self, x: Latent, levels: Sequence[Level]) -> Walk:
        for here, there in pairwise(levels):
            learned, spread = self.variance == "learned" and there.sigma > 0, None
            if learned:
                x0, spread = yield DenoiseWithVariance(x, here)
            else:
                x0 = yield Denoise(x, here)
            x = ancestral_step(x, x0, here, there)
            if there.sigma == 0:
                continue
            fresh = -math.expm1(-2 * gain(here, there))
            small, large = fresh * there.sigma**2, fresh * here.sigma**2
            noise = yield Noise()
            if learned:
                x = x + (yield Scatter(noise, spread, math.log(small), math.log(large)))
            else:
                x = x + math.sqrt(large if self.variance == "large" else small) * noise
        return x
