"""DPM-Solver++ (Lu et al. 2211.01095)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from itertools import pairwise

from hasten.core.ask import Denoise, Latent
from hasten.core.errors import require, require_whole
from hasten.core.level import Level
from hasten.core.program import Walk
from hasten.core.solver import Solver, solvers
from hasten.solvers.steps import exponential_step, gain, phi, usable_order

Known = list[tuple[Level, Latent]]
"""Levels and the x0 answered there, the newest first."""


@solvers.add("dpmpp")
@dataclasses.dataclass(frozen=True, kw_only=True)
class DPMpp(Solver):
    """An exponential integrator in log-SNR that extrapolates x0: 2M and 3M, or ``singlestep`` 2S
    and 3S, which take their in-between levels from the grid, so a step of the grid is always one
    evaluation.

    Orders: 1, 2, and for 3 what the published coefficients give. 3M weighs its second difference
    by half, which leaves order 2 with a small constant (``unipc(order=3, corrector=False)`` has the
    full weight); 3S has order 3 where levels are uniform in log-SNR, else 2.
    """

    title = "DPM-Solver++"

    order: int = 2
    singlestep: bool = False

    def __post_init__(self) -> None:
        require_whole("solver option order", self.order, 1, 3)
        known = isinstance(self.singlestep, bool)
        require(known, f"solver option singlestep is {self.singlestep!r}; it takes True or False.")

    def walk(self, x: Latent, levels: Sequence[Level]) -> Walk:
        walk = self._singlestep if self.singlestep else self._multistep
        return (yield from walk(x, levels))

    def _multistep(self, x: Latent, levels: Sequence[Level]) -> Walk:
        known: Known = []
        for index, (here, there) in enumerate(pairwise(levels)):
            known = [(here, (yield Denoise(x, here))), *known][: self.order]
            order = usable_order(self.order, index, levels)
            x = multistep(x, known[:order], there)
        return x

    def _singlestep(self, x: Latent, levels: Sequence[Level]) -> Walk:
        for first, size in self._blocks(levels):
            start, known = x, []
            for index in range(first, first + size):
                known.append((levels[index], (yield Denoise(x, levels[index]))))
                x = singlestep(start, known, levels[index + 1])
        return x

    def _blocks(self, levels: Sequence[Level]) -> list[tuple[int, int]]:
        """(first level, size) of each group of evaluations that together make one step."""
        steps = len(levels) - 1
        head = int(levels[0].alpha == 0 and steps > 1)
        tail = int(levels[-1].sigma == 0)
        whole, rest = divmod(steps - head - tail, self.order)
        sizes = [1] * head + [self.order] * whole + [rest] * (rest > 0) + [1] * tail
        return [(sum(sizes[:number]), size) for number, size in enumerate(sizes)]


def multistep(x: Latent, known: Known, there: Level) -> Latent:
    """2M: algorithm 2; 3M: the third-order update of the authors' code. The order is the number of
    answers known."""
    here, x0 = known[0]
    step = exponential_step(x, x0, here, there)
    if len(known) == 1:
        return step
    h, slope = gain(here, there), _slope(known, 0, there)
    if len(known) == 2:
        return step + (there.alpha * -math.expm1(-h) / 2) * slope
    bend = slope - _slope(known, 1, there)
    older, oldest = gain(known[1][0], here) / h, gain(known[2][0], known[1][0]) / h
    slope = slope + (older / (older + oldest)) * bend
    curve = (1 / (older + oldest)) * bend
    return step + (there.alpha * h) * (phi(2, -h) * slope + phi(3, -h) * curve)


def _slope(known: Known, newest: int, there: Level) -> Latent:
    """How much x0 changes over a step of today's length, by two answers one after the other."""
    (level, x0), (older, older_x0) = known[newest : newest + 2]
    return (gain(known[0][0], there) / gain(older, level)) * (x0 - older_x0)


def singlestep(x: Latent, known: Known, there: Level) -> Latent:
    """2S and 3S (algorithm 1 and the authors' code) from ``x`` at the oldest answer's level."""
    (here, x0), (middle, newest) = known[0], known[-1]
    step = exponential_step(x, x0, here, there)
    if len(known) == 1:
        return step
    h = gain(here, there)
    weight = -math.expm1(-h) / 2 if len(known) == 2 else h * phi(2, -h)
    return step + (there.alpha * weight * h / gain(here, middle)) * (newest - x0)
