"""What the consistency objectives share: one network at two levels of a trajectory.

A consistency function maps every point of a trajectory to its end (Song et al. 2303.01469): its
answers at two neighbouring points are made equal, the cleaner one held still.
"""

from __future__ import annotations

import dataclasses
from contextlib import AbstractContextManager

import numpy as np
import torch

from hasten.core.errors import require, require_number
from hasten.core.level import Array
from hasten.core.model import Model
from hasten.core.noise_schedule import NoiseSchedule
from hasten.learning.students.base import Distillation, PlanFields, rounded
from hasten.learning.students.batched_denoiser import Levels, denoised
from hasten.learning.students.compare import Comparison
from hasten.training.columns import columns
from hasten.training.objective import Batch

MIDDLES = (0.3, 0.5, 0.8, 1.2, 2.0, 3.5, 6.0)
BETWEEN = 0.8  # the one that a student is looked at with while it learns


def same_masks(x: torch.Tensor) -> AbstractContextManager[None]:
    """Whatever is drawn within is drawn again after: dropout is to hide the same units at both
    levels."""
    devices = [x.device] if x.device.type == "cuda" else []
    return torch.random.fork_rng(devices=devices)


def pseudo_huber(x: torch.Tensor, c: float) -> torch.Tensor:
    """sqrt(|x|^2 + c^2) - c of each row of x (n, d); c = 0 is the norm (2310.14189, eq. 8)."""
    square = x.square().sum(1)
    return (square + c**2).clamp(min=1e-20).sqrt() - c


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConsistencyLoss:
    """Answers at a noisier level ``far`` and a cleaner one ``near``, and the weight of each pair.

    Where ``near`` is clean its answer is the picture itself.
    """

    student: Model
    compare: Comparison
    c: float = 0.0

    def loss_between(
        self,
        net: torch.nn.Module,
        target: torch.nn.Module,
        batch: Batch,
        far: Levels,
        near: Levels,
        points: tuple[torch.Tensor, torch.Tensor],
        weight: Array,
    ) -> torch.Tensor:
        """The weighted mean distance of ``net`` at ``points[0]`` from ``target`` at ``points[1]``,
        divided by the square root of a picture's size."""
        x, y = points
        clean = near.sigma == 0
        with torch.no_grad(), same_masks(x):
            # The network is not evaluated on clean pictures: they are its answer.
            levels = Levels(*(np.where(clean, a, b) for a, b in _fields(far, near)))
            wanted = denoised(self.student, target, y, levels, batch.labels)
            (is_clean,) = columns(x, clean)
            wanted = torch.where(is_clean > 0, batch.rows, wanted)
        answer = denoised(self.student, net, x, far, batch.labels)
        (each,) = columns(x, weight)
        apart = pseudo_huber(self.compare(answer) - self.compare(wanted), self.c)
        return (each.flatten() * apart).mean() / x[0].numel() ** 0.5


def _fields(far: Levels, near: Levels) -> list[tuple[Array, Array]]:
    return [(far.t, near.t), (far.alpha, near.alpha), (far.sigma, near.sigma)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConsistencyStudent(Distillation):
    """Samples in one evaluation or in several; ``middle`` is sigma / alpha at the second of two,
    None for the one of MIDDLES that gives the best pictures."""

    middle: float | None = None

    def __post_init__(self) -> None:
        if self.middle is not None:
            require_number("objective option middle", self.middle, 1e-3, 1e3)

    compares = True

    def plans(self, student: Model, evaluations: int) -> list[PlanFields]:
        return consistency_plans(student, evaluations, middle_ratio(student.schedule, self.middle))

    def choices(self, student: Model, evaluations: int) -> list[list[PlanFields]]:
        if self.middle is not None or evaluations == 1:
            return [self.plans(student, evaluations)]
        top = student.schedule.at(student.schedule.noisy).ratio
        middles = [middle for middle in MIDDLES if middle < 0.9 * top] or [0.3 * top]
        return [consistency_plans(student, evaluations, middle) for middle in middles]


def middle_ratio(schedule: NoiseSchedule, middle: float | None) -> float:
    """``middle``, or where there is none, one that is well below the top of ``schedule``."""
    return middle or min(BETWEEN, 0.3 * schedule.at(schedule.noisy).ratio)


def consistency_plans(student: Model, evaluations: int, middle: float) -> list[PlanFields]:
    """One evaluation from the top, and more with levels in between, evenly in log(sigma / alpha)
    down to the ratio ``middle``, which is that of the second evaluation of two."""
    plans: list[PlanFields] = []
    for steps in dict.fromkeys([evaluations, *(n for n in (1, 2) if n < evaluations)]):
        at = tuple(rounded(place) for place in places_down(student.schedule, steps, middle))
        plans.append({"solver": "consistency", "grid": f"given(at={at})", "steps": steps})
    return plans


def places_down(schedule: NoiseSchedule, steps: int, middle: float) -> list[float]:
    """The positions of ``steps`` evaluations from the top of ``schedule`` down to ``middle``."""
    top = min(schedule.at(schedule.noisy).ratio, 1e4)
    require(
        steps == 1 or middle < top,
        f"objective option middle is {middle:g}, and sampling begins at sigma / alpha = {top:g}; "
        "give a smaller one.",
    )
    ratios = np.geomspace(top, middle, steps)[1:]
    return [schedule.noisy, *(float(schedule.position(-np.log(s))) for s in ratios)]
