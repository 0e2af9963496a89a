"""Shortcut models (Frans et al. 2410.12557): a flow that is conditioned on the length of its
jump, trained from scratch with no teacher.

A jump of twice the length has to end where two jumps do; the shortest are learned from data as an
ordinary flow. The length is encoded in the time: jumps of 1 / 2^k of the way have times 1000 k
later, so that any network that takes a time can be trained.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import torch

from hasten.core.errors import require, require_number, require_whole
from hasten.core.model import Model
from hasten.core.noise_schedule import Flow
from hasten.learning.students.base import (
    Distillation,
    DistillationSetup,
    PlanFields,
    Stage,
    objectives,
    with_prediction,
)
from hasten.training.columns import columns
from hasten.training.objective import Batch

WIDE = 1000.0  # between the times of two lengths


@objectives.add("shortcut")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Shortcut(Distillation):
    """``finest``: the shortest jumps are 1 / 2^finest of the way; ``share``: of each batch in which
    two jumps are made one (their 1/4)."""

    finest: int = 5
    share: float = 0.25

    fresh = True
    early = False

    def __post_init__(self) -> None:
        require_whole("objective option finest", self.finest, 1, 9)
        require_number("objective option share", self.share, 0.01, 0.99)

    def check(self, teacher: Model, evaluations: int) -> None:
        require(
            evaluations & (evaluations - 1) == 0 and evaluations <= 1 << self.finest,
            f"evaluations is {evaluations}; objective 'shortcut' jumps 1, 1/2, ... "
            f"1/{1 << self.finest} of the way, so it takes a power of two up to that.",
        )

    def uses_teacher(self) -> bool:
        return False

    def student(self, teacher: Model) -> Model:
        return dataclasses.replace(with_prediction(teacher, "flow"), schedule=Flow())

    def objective(self, setup: DistillationSetup, stage: Stage) -> Jumps:
        return Jumps(settings=self)

    def plans(self, student: Model, evaluations: int) -> list[PlanFields]:
        counts = dict.fromkeys((evaluations, *(n for n in (1, 2) if n < evaluations)))
        out: list[PlanFields] = []
        for n in counts:
            at = tuple(1 - i / n for i in range(n))
            times = tuple(1000 * s + WIDE * n.bit_length() - WIDE for s in at)
            out.append({"solver": "euler", "grid": f"given(at={at}, told={times})", "steps": n})
        return out


@dataclasses.dataclass(frozen=True, kw_only=True)
class Jumps:
    """Their algorithm 1: flow matching at the finest length, and consistency of two with one."""

    settings: Shortcut

    def loss(self, net: torch.nn.Module, batch: Batch) -> torch.Tensor:
        x0, noise, finest = batch.rows, batch.randn_like(batch.rows), self.settings.finest
        labels = batch.labels
        n = len(x0)
        twice = round(self.settings.share * n) if n > 1 else 0
        uniform = torch.rand(n, generator=batch.generator, device=x0.device).double()
        length = (
            torch.randint(finest, (n,), generator=batch.generator, device=x0.device).cpu().numpy()
        )
        # k of a jump 1 / 2^k; the first `twice` pictures jump from a point of their own grid.
        k = np.where(np.arange(n) < twice, length, finest)
        count = 2.0**k
        place = uniform.cpu().numpy()
        place = np.where(np.arange(n) < twice, np.ceil(place * count).clip(1) / count, place)
        (s,) = columns(x0, place)
        x = (1 - s) * x0 + s * noise
        target = noise - x0
        if twice:
            mine = slice(0, twice)
            condition = None if labels is None else labels[mine]
            with torch.no_grad():
                half = 0.5 / count[mine]
                first = self._jump(net, x[mine], place[mine], k[mine] + 1, condition)
                (step,) = columns(first, half)
                there = x[mine] - step * first
                second = self._jump(net, there, place[mine] - half, k[mine] + 1, condition)
            target = torch.cat([(first + second) / 2, target[twice:]])
        return torch.nn.functional.mse_loss(self._jump(net, x, place, k, labels), target)

    def _jump(
        self,
        net: torch.nn.Module,
        x: torch.Tensor,
        place: np.ndarray,
        k: np.ndarray,
        condition: torch.Tensor | None,
    ) -> torch.Tensor:
        """The mean velocity over a jump of 1 / 2^k from ``place``."""
        (t,) = columns(x, 1000 * place + WIDE * k)
        return net(x, t.flatten(), condition).float()
