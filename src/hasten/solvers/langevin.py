"""Predictor-corrector sampling with Langevin steps (Song et al. 2011.13456, algorithms 2 to 5)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from itertools import pairwise

import torch

from hasten.core.ask import Denoise, Noise
from hasten.core.errors import require_number, require_whole
from hasten.core.level import Level
from hasten.core.program import Walk
from hasten.core.solver import Solver, solvers
from hasten.solvers.steps import ancestral_sigma, ancestral_step


@solvers.add("langevin")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Langevin(Solver):
    """The ancestral step as predictor, then ``corrections`` steps of Langevin dynamics at the level
    it reached: ``x + e score + sqrt(2 e) noise`` with ``e = 2 (snr |noise| / |score|)^2``.

    The norms are those of each picture on its own, so that it does not depend on its batch-mates
    (the authors' code takes their means over the batch). They make a step that is not linear in its
    latents, so there is no Program. ``1 + corrections`` evaluations a step, one on the last; the
    authors use an ``snr`` of 0.16 on variance-exploding schedules and 0.01 on variance-preserving
    ones.
    """

    title = "predictor-corrector"

    stochastic = True
    traceable = False
    corrections: int = 1
    snr: float = 0.16

    def __post_init__(self) -> None:
        require_whole("solver option corrections", self.corrections, 0, 1000)
        require_number("solver option snr", self.snr, 1e-6, 1.0)

    def walk(self, x: torch.Tensor, levels: Sequence[Level]) -> Walk:
        for here, there in pairwise(levels):
            x0 = yield Denoise(x, here)
            x = ancestral_step(x, x0, here, there)
            if there.sigma == 0:
                continue
            x = x + ancestral_sigma(here, there) * (yield Noise())
            for _ in range(self.corrections):
                x0 = yield Denoise(x, there)
                score = (there.alpha * x0 - x) / there.sigma**2
                noise = yield Noise()
                step = 2 * (self.snr * _norm(noise) / _norm(score)).square()
                x = x + step * score + (2 * step).sqrt() * noise
        return x


def _norm(x: torch.Tensor) -> torch.Tensor:
    """The norm of each picture, never 0, in the shape that multiplies latents."""
    norm = x.flatten(1).norm(dim=1).clamp(min=1e-12)
    return norm.view(-1, *[1] * (x.ndim - 1))
