"""A sliding window over a Program's rows, for executors that ask many questions at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from hasten.core.program import Program
from hasten.core.session import Session
from hasten.executors.rows import Rows, follow

Supposed = Callable[[int, Any], Any]
"""``supposed(call, u)``: the answer that the question ``u`` of network call ``call`` may have."""


class Window:
    """The rows from the first network call that is not settled, with the registers alive there.

    What lies behind the window is forgotten, its noise too, so memory grows with the window alone.
    """

    def __init__(self, program: Program, registers: dict[str, Any], session: Session) -> None:
        self.program, self.first = program, 0
        self._rows, self._row, self._registers = Rows(program, session), 0, registers

    def sweep(self, end: int, supposed: Supposed) -> tuple[list[Any], list[Any]]:
        """The questions of the calls from ``first`` to ``end`` and the answers supposed to them,
        where each question follows from the answers supposed before it. No network is called."""
        questions: list[Any] = []
        answers: list[Any] = []

        def note(u: Any) -> Any:
            questions.append(u)
            answers.append(supposed(self.first + len(answers), u))
            return answers[-1]

        stop = self._rows.calls[end - 1] + 1
        follow(self._rows.cross(range(self._row, stop), dict(self._registers)), note)
        return questions, answers

    def advance_(self, answers: Sequence[Any]) -> None:
        """Leave the window's first calls behind, with these answers for good."""
        self.first += len(answers)
        within = self.first < self.program.evaluations
        stop = self._rows.calls[self.first] if within else len(self.program.rows)
        given = iter(answers)
        follow(self._rows.cross(range(self._row, stop), self._registers), lambda _: next(given))
        self._rows.forget_(range(self._row, stop))
        self._row = stop

    @property
    def output(self) -> Any:
        """The result, once every call has been left behind."""
        return self._registers[self.program.output]
