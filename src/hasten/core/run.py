"""A run on its way through a program, moved an evaluation at a time by whoever drives several
together: streams of frames, servers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from hasten.core.ask import MAIN
from hasten.core.session import Session, answer_together
from hasten.core.stepping import Answers, Pending, Steps


class Run:
    """A program's steps, and the session that answers them.

    Attributes:
        pending: what a network has to answer next, () at the end; done: whether that is reached.
        x0: what the network said last about the main condition (n, ...).
    """

    def __init__(self, session: Session, steps: Steps) -> None:
        self.session, self.steps = session, steps
        self.pending: Sequence[Pending] = ()
        self.done = False
        self.x0 = self._output = torch.empty(0)
        self._move(lambda: next(self.steps))

    def send(self, answers: Sequence[Answers]) -> None:
        """Take the answers to what was pending, and go on to the next evaluation."""
        for row, answer in zip(self.pending, answers, strict=True):
            if getattr(row.ask, "condition", MAIN) == MAIN:
                self.x0 = answer[0]
        self._move(lambda: self.steps.send(answers))

    def result(self) -> torch.Tensor:
        """The program's output (n, ...), once done.

        Raises:
            NonFiniteError: an answer of the network was not finite.
        """
        self.session.check()
        return self._output

    def _move(self, move: Callable[[], Sequence[Pending]]) -> None:
        try:
            self.pending = move()
            while not self.pending[0].ask.calls:
                self.pending = self.steps.send(self.session.answer(self.pending))
        except StopIteration as stop:
            self.done, self._output, self.pending = True, stop.value, ()


def advance(runs: Sequence[Run]) -> None:
    """Move ``runs`` of one denoiser by an evaluation each; they share network calls where they
    can."""
    answers = answer_together([(run.session, run.pending) for run in runs])
    for run, some in zip(runs, answers, strict=True):
        run.send(some)
