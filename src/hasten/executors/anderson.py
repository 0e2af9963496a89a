"""Anderson acceleration of the triangular system (ParaTAA, Tang et al. 2402.09970)."""

from __future__ import annotations

import dataclasses

import torch

from hasten.core.errors import require_whole
from hasten.core.executor import executors
from hasten.core.program import Program
from hasten.executors.jacobian_estimate import Secants
from hasten.executors.rounds import Rounds
from hasten.executors.surrogate import Surrogate


@executors.add("anderson")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Anderson(Rounds):
    """Every round supposes the answers of the last one, moved by a Jacobian of each level and
    picture that the changes between the rounds taught (see :class:`Secants`).

    ``memory``: changes kept; about 5 + 4 memory windows of latents are held.
    """

    memory: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        require_whole("executor option memory", self.memory, 1, 16)

    def surrogate(self, program: Program, x: torch.Tensor) -> Surrogate:
        size = min(self.window, program.evaluations)
        return Secants(size, program.levels, x, self.data_std, self.memory)
