"""Picard iteration on a sliding window (ParaDiGMS, Shih et al. 2305.16317)."""

from __future__ import annotations

import dataclasses

import torch

from hasten.core.executor import executors
from hasten.core.program import Program
from hasten.executors.rounds import Rounds
from hasten.executors.surrogate import Surrogate, Wiener


@executors.add("picard")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Picard(Rounds):
    """Every round supposes the answers of the last one, moved by the slope of the exact denoiser of
    normal data. With ``data_std`` 0 the x0 of the last round is held, with a large one its noise.
    """

    def surrogate(self, program: Program, x: torch.Tensor) -> Surrogate:
        size = min(self.window, program.evaluations)
        return Wiener(size, program.levels, x, self.data_std)
