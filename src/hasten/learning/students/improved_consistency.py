"""Improved consistency training (Song & Dhariwal 2310.14189): no average of the weights, no learned
distance; levels drawn log-normally from a grid that doubles."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import torch

from hasten.core.errors import require_number, require_whole
from hasten.core.level import Array
from hasten.learning.students.base import DistillationSetup, Stage, objectives
from hasten.learning.students.batched_denoiser import Levels
from hasten.learning.students.consistency import karras
from hasten.learning.students.consistency_base import ConsistencyLoss, ConsistencyStudent
from hasten.training.objective import Batch


@objectives.add("improved-consistency")
@dataclasses.dataclass(frozen=True, kw_only=True)
class ImprovedConsistency(ConsistencyStudent):
    """``few`` levels, twice as many in each eighth of the run, ``many`` at most (their eq. 9)."""

    few: int = 10
    many: int = 1280
    mean: float = -1.1
    std: float = 2.0

    def __post_init__(self) -> None:
        require_whole("objective option few", self.few, 2, 100_000)
        require_whole("objective option many", self.many, self.few, 100_000)
        require_number("objective option std", self.std, 1e-3, 20.0)

    def uses_teacher(self) -> bool:
        return False

    def objective(self, setup: DistillationSetup, stage: Stage) -> Doubling:
        d = math.prod(setup.student.shape)
        return Doubling(
            student=setup.student, compare=setup.compare, c=0.00054 * math.sqrt(d), settings=self
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Doubling(ConsistencyLoss):
    """Neighbouring levels with the same noise, weight 1 / (s_far - s_near) (their eq. 10)."""

    settings: ImprovedConsistency

    def loss(self, net: torch.nn.Module, batch: Batch) -> torch.Tensor:
        x0, schedule, noise = batch.rows, self.student.schedule, batch.randn_like(batch.rows)
        few, many = self.settings.few, self.settings.many
        grid = karras(schedule, min(few * 2 ** int(8 * batch.progress), many) + 1)
        draws = torch.rand(len(x0), generator=batch.generator, device=x0.device).double()
        where = np.searchsorted(np.cumsum(self.shares(grid)), draws.cpu().numpy())
        where = np.minimum(where, len(grid) - 2)
        s, r = grid[where], grid[where + 1]
        far, near = Levels.at_ratios(schedule, s), Levels.at_ratios(schedule, r)
        points = far.noised(x0, noise), near.noised(x0, noise)
        return self.loss_between(net, net, batch, far, near, points, 1 / (s - r))

    def shares(self, grid: Array) -> Array:
        """How often each of the gaps of ``grid`` is drawn: the normal law of ln s between its ends
        (their eq. 11)."""
        scale = self.settings.std * math.sqrt(2)
        law = np.array([math.erf((math.log(s) - self.settings.mean) / scale) for s in grid])
        shares = law[:-1] - law[1:]
        return shares / shares.sum()
