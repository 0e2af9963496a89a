"""DEIS (Zhang & Chen 2204.13902)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from hasten.core.ask import Denoise, Latent
from hasten.core.errors import require_whole
from hasten.core.level import Level
from hasten.core.program import Walk
from hasten.core.solver import Solver, solvers
from hasten.solvers.steps import noise_kept, usable_order

NODES, WEIGHTS = np.polynomial.legendre.leggauss(32)


@solvers.add("deis")
@dataclasses.dataclass(frozen=True, kw_only=True)
class DEIS(Solver):
    """tAB-DEIS: the predicted noise as a polynomial in log(sigma / alpha) through the last
    ``order`` answers, integrated over sigma / alpha (eq. 14 and 15 with rho = sigma / alpha)."""

    title = "DEIS"

    order: int = 3

    def __post_init__(self) -> None:
        require_whole("solver option order", self.order, 1, 3)

    def walk(self, x: Latent, levels: Sequence[Level]) -> Walk:
        noises: list[Latent] = []
        for index, (here, there) in enumerate(pairwise(levels)):
            x0 = yield Denoise(x, here)
            if there.sigma == 0:
                return there.alpha * x0
            noises = [(yield noise_kept(x, x0, here)), *noises][: self.order]
            order = usable_order(self.order, index, levels)
            places = [-level.half_log_snr for level in levels[index + 1 - order : index + 1]][::-1]
            x = there.alpha * x0 + there.sigma * noises[0]
            weights = _integrals(places, -there.half_log_snr) if order > 1 else []
            for weight, noise in zip(weights, noises[1:order], strict=True):
                x = x + (there.alpha * weight) * (noise - noises[0])
        return x


def _integrals(places: list[float], end: float) -> list[float]:
    """Integrals of e^u L_k(u) from ``places[0]`` to ``end`` for the Lagrange polynomials of the
    older places; the newest one's is what they leave of the whole."""
    half = 0.5 * (end - places[0])
    u = places[0] + half * (1 + NODES)
    out = []
    for k, place in enumerate(places[1:], start=1):
        others = [other for j, other in enumerate(places) if j != k]
        basis = math.prod((u - other) / (place - other) for other in others)
        out.append(float(half * np.sum(WEIGHTS * np.exp(u) * basis)))
    return out
