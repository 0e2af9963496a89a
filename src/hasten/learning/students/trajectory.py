"""Trajectory distillation (Zhou et al. 2409.19681): the student's few steps end where the teacher's
many do.

The teacher's states at the student's levels are stored; the student takes its own steps, each from
where the last one ended, and the loss of each is its distance from the teacher (L1). It sees its
own errors, as it will when it samples, and learns quickly.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

import torch

from hasten.core.errors import require, require_whole
from hasten.core.grid import grids
from hasten.core.level import Level
from hasten.core.model import Model
from hasten.core.noise_schedule import NoiseSchedule
from hasten.learning.students.base import (
    Distillation,
    DistillationSetup,
    PlanFields,
    Stage,
    objectives,
    rounded,
)
from hasten.learning.students.batched_denoiser import Levels, denoised
from hasten.training.objective import Batch

APART = 0.01  # of the schedule, between the first levels for different numbers of steps


@objectives.add("trajectory")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Trajectory(Distillation):
    """DDIM steps on ``grid``; with ``fewest`` below the evaluations asked for, one student learns
    all numbers between (their SFD-v).

    Their network is given the number of steps; here sampling in fewer steps begins a little lower,
    where there is as little signal, so that an ordinary network can tell by its time.
    """

    grid: str = "uniform"
    fewest: int | None = None

    needs = "trajectories"

    def __post_init__(self) -> None:
        object.__setattr__(self, "grid", grids.canonical(self.grid))
        if self.fewest is not None:
            require_whole("objective option fewest", self.fewest, 1, 100)

    def check(self, teacher: Model, evaluations: int) -> None:
        require(
            self.fewest is None or self.fewest <= evaluations,
            f"objective option fewest is {self.fewest}, more than evaluations, {evaluations}.",
        )

    def trajectory_levels(
        self, schedule: NoiseSchedule, evaluations: int
    ) -> list[tuple[Level, ...]]:
        counts = range(evaluations, (self.fewest or evaluations) - 1, -1)
        return [self._levels(schedule, n, evaluations - n) for n in counts]

    def _levels(self, schedule: NoiseSchedule, steps: int, number: int) -> tuple[Level, ...]:
        return tuple(
            schedule.at(place) for place in (*self._places(schedule, steps, number), schedule.clean)
        )

    def _places(self, schedule: NoiseSchedule, steps: int, number: int) -> list[float]:
        places = list(grids.parse(self.grid).positions(schedule, steps))
        places[0] -= APART * number * (schedule.noisy - schedule.low)
        return places

    def objective(self, setup: DistillationSetup, stage: Stage) -> TrajectoryLoss:
        kinds = self.trajectory_levels(setup.student.schedule, stage.evaluations)
        return TrajectoryLoss(student=setup.student, kinds=tuple(kinds))

    def plans(self, student: Model, evaluations: int) -> list[PlanFields]:
        out: list[PlanFields] = []
        for number, n in enumerate(range(evaluations, (self.fewest or evaluations) - 1, -1)):
            at = tuple(rounded(place) for place in self._places(student.schedule, n, number))
            out.append({"solver": "ddim", "grid": f"given(at={at})", "steps": n})
        return out


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrajectoryLoss:
    """Rows are (n, 1 + states, *shape): standard normal noise, then the teacher's states at the
    levels of each kind of trajectory after its first; the steps of a run take the kinds in turn."""

    student: Model
    kinds: Sequence[tuple[Level, ...]]

    def loss(self, net: torch.nn.Module, batch: Batch) -> torch.Tensor:
        number = batch.step % len(self.kinds)
        levels = self.kinds[number]
        first = 1 + sum(len(kind) - 1 for kind in self.kinds[:number])
        x = levels[0].spread * batch.rows[:, 0]
        total = x.new_zeros(())
        for k, (here, there) in enumerate(itertools.pairwise(levels)):
            begin, end = (Levels.same(level, len(x)) for level in (here, there))
            moved = begin.moved(x, denoised(self.student, net, x, begin, batch.labels), end)
            total = total + (moved - batch.rows[:, first + k]).abs().mean()
            x = moved.detach()
        return total / (len(levels) - 1)
