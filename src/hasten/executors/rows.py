"""Rows of a Program, crossed with answers that come from elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

from hasten.core.ask import Backend, Denoise
from hasten.core.errors import UserError
from hasten.core.program import Program

Crossing = Generator[Any, Any, None]
"""Yields the question of each network call in turn, and is sent its answer."""


class Rows:
    """A Program's rows, and the noise drawn in them.

    Noise is drawn once a row, in the order in which rows are first crossed, and kept until
    :meth:`forget_`; who crosses the rows in order sees the noise that the sequential executor sees.

    Attributes:
        calls: the row of each network call.
    """

    def __init__(self, program: Program, backend: Backend) -> None:
        self.program, self._machine = program, backend
        self.calls = [index for index, row in enumerate(program.rows) if row.ask.calls]
        self._noise: dict[int, Any] = {}

    def cross(self, rows: range, values: dict[str, Any]) -> Crossing:
        """Run ``rows`` on the registers ``values``, which are changed."""
        for index in rows:
            row = self.program.rows[index]
            given = [values[name] for name in row.ask.reads()]
            answers: tuple[Any, ...]
            if row.ask.calls:
                answers = ((yield given[0]),)
            elif row.ask.op == "noise":
                if index not in self._noise:
                    self._noise[index] = self._machine.noise()
                answers = (self._noise[index],)
            else:
                answers = row.ask.answer(self._machine, *given)
            values.update(zip(row.out, answers, strict=True))
            for name in self.program.frees[index]:
                del values[name]

    def forget_(self, rows: range) -> None:
        """Drop the noise of ``rows``, which nothing will cross again."""
        for index in rows:
            self._noise.pop(index, None)


def step(crossing: Crossing, answer: Any = None) -> Any:
    """The next question of ``crossing`` after ``answer`` to the last, None where there is none."""
    try:
        return crossing.send(answer)
    except StopIteration:
        return None


def follow(crossing: Crossing, answer: Callable[[Any], Any]) -> None:
    """Cross to the end, where ``answer`` answers each question."""
    question = step(crossing)
    while question is not None:
        question = step(crossing, answer(question))


def require_parallel(name: str, program: Program) -> None:
    """Refuse a program with questions that cannot be asked side by side."""
    for row in program.rows:
        if row.ask.calls and (not isinstance(row.ask, Denoise) or row.ask.reuse):
            what = "reuses features" if getattr(row.ask, "reuse", False) else f"asks {row.ask.op!r}"
            raise UserError(
                f"executor {name!r} asks for x0 alone, many at once, but this program {what}; use "
                "executor='sequential', or a plan without it."
            )
