"""A Solver crosses the levels: a generator that asks, and never calls anything itself."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from hasten.core.ask import Clip, Denoise, DenoiseAt, DenoiseWithVariance, Latent
from hasten.core.errors import TracingError, require, require_number
from hasten.core.level import Level
from hasten.core.noise_schedule import NoiseSchedule
from hasten.core.program import Program, Walk, symbol, trace_walk
from hasten.core.registry import Registry


class Solver(ABC):
    """Parts are frozen keyword-only dataclasses: the part is its own configuration.

    ``stochastic``: draws noise on the way, so ODE error against one solution means nothing.
    ``traceable``: linear in its latents, so it has a Program.
    ``title``: its name in text for people; ``part_name`` where it is empty.
    """

    part_name: ClassVar[str]
    title: ClassVar[str] = ""
    stochastic: ClassVar[bool] = False
    traceable: ClassVar[bool] = True

    @abstractmethod
    def walk(self, x: Latent, levels: Sequence[Level]) -> Walk:
        """From ``x`` at ``levels[0]`` to the latent at ``levels[-1]``, which is returned."""

    def draws_noise(self) -> bool:
        """Whether this configuration draws noise on the way."""
        return self.stochastic

    def on(self, schedule: NoiseSchedule) -> Solver:
        """The solver for walks on ``schedule``: itself, unless it asks at levels that no grid
        lists."""
        return self


solvers: Registry[Solver] = Registry("solver", "hasten.solvers")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Clipped(Solver):
    """Any solver, with every x0 held in [-bound, bound] before it is used."""

    solver: Solver
    bound: float = 1.0

    @property
    def part_name(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.solver.part_name

    def __post_init__(self) -> None:
        require_number("clip", self.bound, 1e-6, 1e6)

    @property
    def traceable(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.solver.traceable

    def draws_noise(self) -> bool:
        return self.solver.draws_noise()

    def on(self, schedule: NoiseSchedule) -> Solver:
        return dataclasses.replace(self, solver=self.solver.on(schedule))

    def walk(self, x: Latent, levels: Sequence[Level]) -> Walk:
        walk = self.solver.walk(x, levels)
        answer = None
        while True:
            try:
                ask = walk.send(answer)
            except StopIteration as stop:
                return stop.value
            answer = yield ask
            if isinstance(ask, (Denoise, DenoiseAt)):
                answer = yield Clip(answer, -self.bound, self.bound)
            elif isinstance(ask, DenoiseWithVariance):
                answer = (yield Clip(answer[0], -self.bound, self.bound)), answer[1]


def trace(solver: Solver, levels: Sequence[Level]) -> Program:
    """The Program of ``solver`` on ``levels`` (noisy to clean, at least two).

    Raises:
        TracingError: the solver is not linear, or its coefficients are not finite there.
    """
    require(len(levels) >= 2, "a grid needs two levels or more: a start and an end.")
    if not solver.traceable:
        raise TracingError(
            "this solver has no Program: its steps depend on the data, or another package takes "
            "them. Run it with hasten.build; hasten.freeze turns an adaptive one into a plan that "
            "has a Program."
        )
    start = symbol()
    return trace_walk(solver.walk(start, levels), levels[0])
