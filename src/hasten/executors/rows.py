"""Rows of a Program, crossed with answers that come from elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Generator

import torch

from hasten.core.ask import Denoise
from hasten.core.call import FULL
from hasten.core.errors import UserError
from hasten.core.executor import Registers
from hasten.core.program import CACHED, Program
from hasten.core.session import Session
from hasten.core.stepping import Answers, stepping

Crossing = Generator[torch.Tensor, torch.Tensor | None, None]
"""Yields the latent of each evaluation in turn, and is sent its x0."""


class Rows:
    """A Program's rows, and the noise drawn in them.

    Noise is drawn once a row, in the order in which rows are first crossed, and kept until
    :meth:`forget_`; who crosses the rows in order sees the noise that the sequential executor sees.

    Attributes:
        calls: the row of each evaluation.
    """

    def __init__(self, program: Program, session: Session) -> None:
        self.program, self._session = program, session
        self.calls = [index for index, row in enumerate(program.rows) if row.ask.calls]
        self._noise: dict[int, Answers] = {}

    def cross(self, rows: range, registers: Registers) -> Crossing:
        """Cross ``rows`` on ``registers``, which are changed."""
        steps = stepping(self.program, registers, rows=rows)
        try:
            (pending,) = next(steps)
            while True:
                if pending.ask.calls:
                    answers = ((yield pending.values[0]),)
                else:
                    answers = self._drawn(pending.number)
                (pending,) = steps.send([answers])
        except StopIteration:
            return

    def forget_(self, rows: range) -> None:
        """Drop the noise of ``rows``, which nothing will cross again."""
        for index in rows:
            self._noise.pop(index, None)

    def _drawn(self, number: int) -> Answers:
        if number not in self._noise:
            self._noise[number] = self._session.noise(self.program.rows[number].ask)
        return self._noise[number]


def step(crossing: Crossing, answer: torch.Tensor | None = None) -> torch.Tensor | None:
    """The next latent of ``crossing`` after ``answer`` to the last, None where there is none."""
    try:
        return crossing.send(answer)
    except StopIteration:
        return None


def follow(crossing: Crossing, answer: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Cross to the end, where ``answer`` answers each evaluation."""
    x = step(crossing)
    while x is not None:
        x = step(crossing, answer(x))


def require_parallel(name: str, program: Program) -> None:
    """Refuse a program with evaluations that cannot be asked for side by side."""
    for ask in program.asks:
        cached = getattr(ask, "variant", FULL) == CACHED  # by the evaluation before it
        if cached or not isinstance(ask, Denoise):
            what = "takes cached features" if cached else f"asks for {ask.op!r}"
            raise UserError(
                f"executor {name!r} asks for x0 alone, many at once, but this program {what}; use "
                "executor='sequential', or a plan without it."
            )
