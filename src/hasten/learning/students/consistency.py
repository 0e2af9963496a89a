"""Consistency models as first published (Song et al. 2303.01469): distillation, where a teacher's
ODE step leads from one level to the next, and training, where the same noise does."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import numpy as np
import torch

from hasten.core.errors import require_number, require_whole
from hasten.core.level import Array
from hasten.core.noise_schedule import NoiseSchedule
from hasten.learning.students.base import DistillationSetup, NetworkPair, Stage, objectives
from hasten.learning.students.batched_denoiser import Levels, Teacher
from hasten.learning.students.consistency_base import ConsistencyLoss, ConsistencyStudent
from hasten.training.columns import columns
from hasten.training.objective import Batch

RHO = 7.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Averaged(ConsistencyStudent):
    """Beside the student runs its average, which gives the target at the cleaner level."""

    def module(self, setup: DistillationSetup) -> torch.nn.Module:
        return NetworkPair(setup.student.net, copy.deepcopy(setup.student.net))


@objectives.add("consistency-distillation")
@dataclasses.dataclass(frozen=True, kw_only=True)
class ConsistencyDistillation(_Averaged):
    """Algorithm 2: ``levels`` Karras levels, a Heun step of the teacher from one to the next (with
    ``order`` 1 a DDIM step, at half the price, as in LCM, 2310.04378), the target's weights
    averaged with decay ``decay``."""

    levels: int = 18
    decay: float = 0.95
    order: int = 2

    def __post_init__(self) -> None:
        require_whole("objective option levels", self.levels, 2, 10_000)
        require_number("objective option decay", self.decay, 0.0, 0.99999)
        require_whole("objective option order", self.order, 1, 2)

    def objective(self, setup: DistillationSetup, stage: Stage) -> Neighbours:
        return Neighbours(
            student=setup.student,
            compare=setup.compare,
            teacher=setup.teacher,
            order=self.order,
            few=self.levels,
            many=self.levels,
            decay=self.decay,
        )


@objectives.add("consistency-training")
@dataclasses.dataclass(frozen=True, kw_only=True)
class ConsistencyTraining(_Averaged):
    """Algorithm 3: from ``few`` levels to ``many`` through the run, ``decay`` at the beginning and
    nearer to 1 later (their appendix C)."""

    few: int = 2
    many: int = 150
    decay: float = 0.9

    def __post_init__(self) -> None:
        require_whole("objective option few", self.few, 2, 10_000)
        require_whole("objective option many", self.many, self.few, 10_000)
        require_number("objective option decay", self.decay, 0.0, 0.99999)

    def uses_teacher(self) -> bool:
        return False

    def objective(self, setup: DistillationSetup, stage: Stage) -> Neighbours:
        return Neighbours(
            student=setup.student,
            compare=setup.compare,
            teacher=None,
            few=self.few,
            many=self.many,
            decay=self.decay,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Neighbours(ConsistencyLoss):
    """Two neighbouring levels; the step between them is the teacher's, or that of the noise."""

    teacher: Teacher | None
    few: int
    many: int
    decay: float
    order: int = 2

    def loss(self, net: torch.nn.Module, batch: Batch) -> torch.Tensor:
        x0, schedule, noise = batch.rows, self.student.schedule, batch.randn_like(batch.rows)
        count = self.count(batch.progress)
        self._average_(net, count, batch.step)
        grid = karras(schedule, count)
        draw = (
            torch.randint(count - 1, (len(x0),), generator=batch.generator, device=x0.device)
            .cpu()
            .numpy()
        )
        far, near = (Levels.at_ratios(schedule, grid[draw + k]) for k in (0, 1))
        x = far.noised(x0, noise)
        y = near.noised(x0, noise) if self.teacher is None else self._step(x, far, near, batch)
        target = _unwrapped(net).other
        return self.loss_between(net, target, batch, far, near, (x, y), np.ones(len(x0)))

    def count(self, progress: float) -> int:
        """How many levels there are now (their appendix C)."""
        square = progress * ((self.many + 1) ** 2 - self.few**2) + self.few**2
        return min(max(int(np.ceil(np.sqrt(square))) - 1 + (self.few == self.many), 2), self.many)

    @torch.no_grad()
    def _average_(self, net: torch.nn.Module, count: int, step: int) -> None:
        """Once a step, in however many parts it is taken."""
        both = _unwrapped(net)
        if both.averaged_at == step:
            return
        both.averaged_at, decay = step, self.decay
        if self.few != self.many:
            decay = float(np.exp(self.few * np.log(self.decay) / count))
        for mine, other in zip(both.net.parameters(), both.other.parameters(), strict=True):
            other.lerp_(mine, 1 - decay)

    def _step(self, x: torch.Tensor, far: Levels, near: Levels, batch: Batch) -> torch.Tensor:
        """DDIM's step, or Heun's in x / alpha against sigma / alpha (Karras et al. 2206.00364)."""
        assert self.teacher is not None
        first = self.teacher(x, far, batch.labels)
        euler = far.moved(x, first, near)
        if self.order == 1:
            return euler
        second = self.teacher(euler, near, batch.labels)
        a, b, s, r = columns(x, 1 / far.alpha, 1 / near.alpha, far.ratio, near.ratio)
        slope = ((a * x - first) / s + (b * euler - second) / r) / 2
        return (a * x + (r - s) * slope) / b


def karras(schedule: NoiseSchedule, count: int) -> Array:
    """``count`` ratios from the top of ``schedule`` to its cleanest level, even in their RHO-th
    root (2206.00364, eq. 5)."""
    top, low = min(schedule.at(schedule.noisy).ratio, 1e4), schedule.at(schedule.low).ratio
    return np.linspace(top ** (1 / RHO), low ** (1 / RHO), count) ** RHO


def _unwrapped(net: Any) -> NetworkPair:
    """The module behind what accelerate or torch.compile wrapped."""
    while not isinstance(net, NetworkPair):
        net = getattr(net, "module", None) or net._orig_mod
    return net
