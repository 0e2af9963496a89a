"""Solvers that evaluate the network at levels between those of the grid."""

from __future__ import annotations

import dataclasses
import functools
import math
from abc import abstractmethod
from collections.abc import Callable, Sequence

import torch

from hasten.core.ask import Denoise
from hasten.core.level import Level
from hasten.core.noise_schedule import NoiseSchedule
from hasten.core.program import Walk
from hasten.core.solver import Solver
from hasten.solvers.churn import read_between
from hasten.solvers.steps import exponential_step

Read = Callable[[float], Level]
"""The level at a half log-SNR."""


class Between(Solver):
    """A solver of the part of a grid where signal and noise both have some size.

    A first level without signal is left by the first-order step to the next level of the grid, and
    a clean end is reached by the x0 at the level before it, as every solver here does. Latents are
    tensors, not symbols: there is no Program.
    """

    traceable = False

    @abstractmethod
    def inside(self, x: torch.Tensor, levels: Sequence[Level], read: Read) -> Walk:
        """From ``levels[0]`` to ``levels[-1]``, at least two, all with signal and noise.

        Args:
            read: the schedule's level at any half log-SNR between the two.
        """

    def walk(self, x: torch.Tensor, levels: Sequence[Level]) -> Walk:
        """The walk on a schedule that is known at ``levels`` alone and read between them (see
        :func:`read_between`); :meth:`on` gives a solver that knows the schedule itself."""

        def read(half_log_snr: float) -> Level:
            level = read_between(levels, half_log_snr)
            assert level is not None  # asked only where two levels or more are inside
            return level

        return (yield from self.between(x, levels, read))

    def between(self, x: torch.Tensor, levels: Sequence[Level], read: Read) -> Walk:
        """The whole walk, both ends included."""
        if levels[0].alpha == 0:
            x0 = yield Denoise(x, levels[0])
            x = exponential_step(x, x0, levels[0], levels[1])
        within = [level for level in levels if math.isfinite(level.half_log_snr)]
        if len(within) > 1:
            x = yield from self.inside(x, within, read)
        if within and levels[-1].sigma == 0:
            x0 = yield Denoise(x, within[-1])
            x = exponential_step(x, x0, within[-1], levels[-1])
        return x

    def on(self, schedule: NoiseSchedule) -> Solver:
        return OnSchedule(solver=self, schedule=schedule)


@dataclasses.dataclass(frozen=True, kw_only=True)
class OnSchedule(Solver):
    """A solver that reads the levels between two ends off the noise schedule itself."""

    traceable = False
    solver: Between
    schedule: NoiseSchedule

    def draws_noise(self) -> bool:
        return self.solver.draws_noise()

    def walk(self, x: torch.Tensor, levels: Sequence[Level]) -> Walk:
        return (
            yield from self.solver.between(x, levels, functools.partial(level_at, self.schedule))
        )


def level_at(schedule: NoiseSchedule, half_log_snr: float) -> Level:
    """The level of ``schedule`` whose log(alpha / sigma) is ``half_log_snr``."""
    return schedule.at(schedule.position(half_log_snr))
