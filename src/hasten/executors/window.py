"""A sliding window over a Program's rows, for executors that ask many questions at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from hasten.core.executor import Registers
from hasten.core.program import Program
from hasten.core.session import Session
from hasten.executors.rows import Rows, follow

Supposed = Callable[[int, torch.Tensor], torch.Tensor]
"""``supposed(call, u)``: the answer that the question ``u`` of network call ``call`` may have."""


class Window:
    """The rows from the first network call that is not settled, with the registers alive there.

    What lies behind the window is forgotten, its noise too, so memory grows with the window alone.
    """

    def __init__(self, program: Program, registers: Registers, session: Session) -> None:
        self.program, self.first = program, 0
        self._rows, self._row, self._registers = Rows(program, session), 0, registers

    def sweep(self, end: int, supposed: Supposed) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """The questions of the calls from ``first`` to ``end`` and the answers supposed to them,
        where each question follows from the answers supposed before it. No network is called."""
        questions: list[torch.Tensor] = []
        answers: list[torch.Tensor] = []

        def note(u: torch.Tensor) -> torch.Tensor:
            questions.append(u)
            answers.append(supposed(self.first + len(answers), u))
            return answers[-1]

        stop = self._rows.calls[end - 1] + 1
        follow(self._rows.cross(range(self._row, stop), dict(self._registers)), note)
        return questions, answers

    def advance_(self, answers: Sequence[torch.Tensor]) -> None:
        """Leave the window's first calls behind, with these answers for good."""
        self.first += len(answers)
        within = self.first < self.program.evaluations
        stop = self._rows.calls[self.first] if within else len(self.program.rows)
        left = iter(answers)
        follow(self._rows.cross(range(self._row, stop), self._registers), lambda _: next(left))
        self._rows.forget_(range(self._row, stop))
        self._row = stop

    @property
    def output(self) -> torch.Tensor:
        """The result, once every call has been left behind."""
        return self._registers[self.program.output]
