"""Easy consistency tuning (Geng et al. 2406.14548), the default objective.

It begins as diffusion training (the cleaner level is the picture itself) and tightens the two
levels towards each other while it runs; no other network is needed, and a trained model is a good
beginning because it already is the first stage.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import torch

from hasten.core.errors import require_number, require_whole
from hasten.core.level import Array
from hasten.learning.students.base import DistillationSetup, Stage, objectives
from hasten.learning.students.batched_denoiser import Levels, draw_ratios
from hasten.learning.students.consistency_base import ConsistencyLoss, ConsistencyStudent
from hasten.training.objective import Batch

K, B = 8.0, 1.0  # of n(t) = 1 + K sigmoid(-B t), their appendix


@objectives.add("consistency")
@dataclasses.dataclass(frozen=True, kw_only=True)
class EasyConsistency(ConsistencyStudent):
    """The cleaner ratio is r = t (1 - n(t) / q^a), a from 1 to ``tightenings`` through the run,
    evenly: their steps of a whole one each set a small network back by thousands of pictures.

    ``mean``, ``std``: of ln(sigma / alpha); ``c``: of the pseudo-Huber distance, 0 for the norm.
    """

    q: float = 4.0
    tightenings: int = 4
    mean: float = -1.1
    std: float = 2.0
    c: float = 0.0

    def __post_init__(self) -> None:
        require_number("objective option q", self.q, 1.0 + 1e-6, 1e6)
        require_whole("objective option tightenings", self.tightenings, 1, 100)
        require_number("objective option mean", self.mean, -20.0, 20.0)
        require_number("objective option std", self.std, 1e-3, 20.0)
        require_number("objective option c", self.c, 0.0, 1e3)

    def uses_teacher(self) -> bool:
        return False

    def objective(self, setup: DistillationSetup, stage: Stage) -> Tightening:
        return Tightening(student=setup.student, compare=setup.compare, c=self.c, settings=self)

    def nearer(self, t: Array, progress: float) -> Array:
        """The cleaner of the two ratios, for the noisier ones ``t`` (n,)."""
        power = 1 + progress * (self.tightenings - 1)
        share = 1 - (1 + K / (1 + np.exp(np.minimum(B * t, 700.0)))) / self.q**power
        return t * np.maximum(share, 0.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tightening(ConsistencyLoss):
    """Both levels have the same noise; the weight of a pair is 1 / (t - r)."""

    settings: EasyConsistency

    def loss(self, net: torch.nn.Module, batch: Batch) -> torch.Tensor:
        x0, schedule = batch.rows, self.student.schedule
        t = draw_ratios(schedule, self.settings.mean, self.settings.std, len(x0), batch.generator)
        r = self.settings.nearer(t, batch.progress)
        r = np.where(r < schedule.at(schedule.low).ratio, 0.0, r)
        far, near = Levels.at_ratios(schedule, t), Levels.at_ratios(schedule, r)
        noise = batch.randn_like(x0)
        points = far.noised(x0, noise), near.noised(x0, noise)
        return self.loss_between(net, net, batch, far, near, points, 1 / (t - r))
