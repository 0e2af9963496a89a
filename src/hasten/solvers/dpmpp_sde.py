"""SDE-DPM-Solver++ (Lu et al. 2211.01095)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from itertools import pairwise

from hasten.core.ask import Denoise, Latent, Noise
from hasten.core.errors import require_whole
from hasten.core.level import Level
from hasten.core.program import Walk
from hasten.core.solver import Solver, solvers
from hasten.solvers.steps import ancestral_sigma, ancestral_step, gain, usable_order


@solvers.add("dpmpp-sde")
@dataclasses.dataclass(frozen=True, kw_only=True)
class DPMppSDE(Solver):
    """The multistep solver of the reverse SDE with extrapolated x0 (section 5 and appendix B):
    ``order`` 1 is the ancestral sampler, 2 is 2M SDE. The step to a clean picture draws nothing."""

    title = "DPM-Solver++ SDE"

    stochastic = True
    order: int = 2

    def __post_init__(self) -> None:
        require_whole("solver option order", self.order, 1, 2)

    def walk(self, x: Latent, levels: Sequence[Level]) -> Walk:
        before, older = levels[0], None
        for index, (here, there) in enumerate(pairwise(levels)):
            x0 = yield Denoise(x, here)
            x = ancestral_step(x, x0, here, there)
            if usable_order(self.order, index, levels) == 2:
                h = gain(here, there)
                weight = -math.expm1(-2 * h) / 2 * h / gain(before, here)
                x = x + (there.alpha * weight) * (x0 - older)
            if there.sigma > 0:
                x = x + ancestral_sigma(here, there) * (yield Noise())
            before, older = here, x0
        return x
