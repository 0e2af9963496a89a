"""Progressive distillation (Salimans & Ho 2202.00512): two steps of the teacher in one, again and
again; each round's student is the next round's teacher."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np
import torch

from hasten.core.errors import require, require_whole
from hasten.core.grid import grids
from hasten.core.model import Model
from hasten.core.noise_schedule import NoiseSchedule
from hasten.learning.students.base import (
    Distillation,
    DistillationSetup,
    PlanFields,
    Stage,
    objectives,
)
from hasten.learning.students.batched_denoiser import Levels, Teacher, denoised
from hasten.training.columns import columns
from hasten.training.objective import Batch

GRID = "uniform"


@objectives.add("progressive")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Progressive(Distillation):
    """Rounds from ``first`` steps down to the evaluations asked for, each half of the last.

    The rounds down to 2 steps and to 1 are given twice the time of the others, as in their
    appendix.
    """

    first: int = 1024

    def __post_init__(self) -> None:
        require_whole("objective option first", self.first, 2, 1 << 16)
        _power("objective option first", self.first)

    def check(self, teacher: Model, evaluations: int) -> None:
        _power("evaluations", evaluations)
        require(
            evaluations < self.first,
            f"evaluations is {evaluations}, but the first teacher takes {self.first} steps; give "
            "progressive(first=...) a larger power of two.",
        )

    def stages(self, evaluations: int) -> Sequence[Stage]:
        counts, steps = [], self.first // 2
        while steps >= evaluations:
            counts.append(steps)
            steps //= 2
        return [
            Stage(name=f"{n:05d}", evaluations=n, share=1.0 + (n <= 2), keep=True) for n in counts
        ]

    def objective(self, setup: DistillationSetup, stage: Stage) -> TwoInOne:
        first = 2 * stage.evaluations == self.first
        teacher = setup.teacher if first else Teacher(model=setup.before)
        return TwoInOne(student=setup.student, teacher=teacher, steps=stage.evaluations)

    def plans(self, student: Model, evaluations: int) -> list[PlanFields]:
        return [{"solver": "ddim", "grid": GRID, "steps": evaluations}]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TwoInOne:
    """Algorithm 2: the x0 with which one DDIM step lands where two of the teacher do, weighted with
    max(SNR, 1) (their truncated weight, section 4)."""

    student: Model
    teacher: Teacher
    steps: int

    def loss(self, net: torch.nn.Module, batch: Batch) -> torch.Tensor:
        x0, noise = batch.rows, batch.randn_like(batch.rows)
        places = halves(self.student.schedule, self.steps)
        draw = torch.randint(
            self.steps, (len(x0),), generator=batch.generator, device=x0.device
        ).cpu()
        begin, middle, end = (
            Levels.at_positions(self.student.schedule, places[2 * draw.numpy() + k])
            for k in (0, 1, 2)
        )
        x = begin.noised(x0, noise)
        half = begin.moved(x, self.teacher(x, begin, batch.labels), middle)
        there = middle.moved(half, self.teacher(half, middle, batch.labels), end)
        share = end.sigma / begin.sigma
        give, divide = columns(x, share, end.alpha - share * begin.alpha)
        target = (there - give * x) / divide
        answer = denoised(self.student, net, x, begin, batch.labels)
        (weight,) = columns(x, np.maximum((begin.alpha / begin.sigma) ** 2, 1.0))
        return (weight * (answer - target).square()).mean()


def halves(schedule: NoiseSchedule, steps: int) -> np.ndarray:
    """The positions (2 steps + 1,) of the grid of ``steps`` steps with one in the middle of each,
    the clean end last."""
    whole = [*grids.parse(GRID).positions(schedule, steps), schedule.clean]
    between = [(a + b) / 2 for a, b in itertools.pairwise(whole)]
    out = np.empty(2 * steps + 1)
    out[::2], out[1::2] = whole, between
    return out


def _power(name: str, value: int) -> None:
    require(
        value & (value - 1) == 0,
        f"{name} is {value}; progressive distillation halves, so it takes a power of two.",
    )
