"""Executors that ask a whole window of questions at once, and ask again until none changes."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod

import torch

from hasten.core.errors import require_number, require_whole
from hasten.core.executor import Executor, Registers, Watch
from hasten.core.program import Program
from hasten.core.session import Session
from hasten.executors.rows import require_parallel
from hasten.executors.surrogate import Surrogate
from hasten.executors.window import Window

OPENING = 3  # rounds over which the window opens: questions far ahead of what is known waste calls
RATIOS = (0.2, 0.5)  # between which the ratio of two successive moves is believed
EARLY = 0.25  # of the tolerance, for calls that others follow: their errors add up in these


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rounds(Executor):
    """Parallel in time, for every Program (Picard iteration as in ParaDiGMS, 2305.16317).

    A round supposes an answer for every network call of the window, follows the rows to the
    questions that come of them, and asks all these at once. A call is settled, for each picture by
    itself, when those before it are and its question has moved by less than a quarter of the
    tolerance since it was asked; the window then slides on. A picture is done when no question of
    it will move by more than the tolerance, by the ratio of its last two moves. The window's first
    question is always exact, so there are never more rounds than evaluations, and after as many the
    result is the sequential one.

    Attributes:
        window: the most network calls of one picture in one round; memory grows with it.
        tolerance: of each question, root mean square, relative to the level's spread
            hypot(alpha, sigma).
        data_std: standard deviation of the data as the network sees them, which says how far x0
            moves with x before anything is known of that.
    """

    adaptive = True
    wide = True

    window: int = 1024
    tolerance: float = 1e-3
    data_std: float = 0.5

    def __post_init__(self) -> None:
        require_whole("executor option window", self.window, 1, 100_000)
        require_number("executor option tolerance", self.tolerance, 1e-9, 1e3)
        require_number("executor option data_std", self.data_std, 0.0, 1e6)

    @abstractmethod
    def surrogate(self, program: Program, x: torch.Tensor) -> Surrogate:
        """What stands for the network between the rounds of one run."""

    def check(self, program: Program) -> None:
        require_parallel(self.part_name, program)

    def run(
        self,
        program: Program,
        registers: Registers,
        session: Session,
        watch: Watch | None = None,
    ) -> torch.Tensor:
        self.check(program)
        x = registers["x"]
        window, total = Window(program, registers, session), program.evaluations
        model = self.surrogate(program, x)
        opening = -(-min(total, self.window) // OPENING)
        settled = torch.zeros(len(x), dtype=torch.long, device=x.device)  # calls, a picture
        number = 0
        while window.first < total:
            wide = min(self.window, opening * (number + 1))
            us, x0s = map(torch.stack, window.sweep(min(total, window.first + wide), model))
            settled = self._settle_(window, model, settled, us, x0s)
            slide = int(settled.min()) - window.first
            if slide:
                window.advance_(list(model.answers[:slide]))
                model.shift_(slide)
                us = us[slide:]
            if len(us):
                asks = program.asks[window.first : window.first + len(us)]
                answers = session.denoise_many(list(us), asks)
                model.learn_(self._mask(window, settled, len(us)), us, torch.stack(answers))
                if watch is not None:
                    watch(number, answers[-1])
                number += 1
        return window.output

    def _settle_(
        self,
        window: Window,
        model: Surrogate,
        settled: torch.Tensor,
        us: torch.Tensor,
        x0s: torch.Tensor,
    ) -> torch.Tensor:
        """How many calls have settled, a picture; the new ones are frozen in ``model``."""
        known = model.known
        if not known:
            return settled
        moved = model.moved(us[:known])
        # The changes of a geometric series with this ratio add up to as much, from the next one on.
        ratio = (moved / model.moves[:known].clamp(min=1e-30)).clamp(*RATIOS)
        left = moved * ratio / (1 - ratio)
        levels = window.program.levels[window.first : window.first + known]
        most = torch.tensor([self.tolerance * level.spread for level in levels]).to(moved)
        before = self._mask(window, settled, known)
        # A question that is not a number counts as settled: it ends the run, and is reported then.
        close = before | ~(moved > EARLY * most.unsqueeze(1))
        if window.first + known == window.program.evaluations:
            close |= (before | ~(left > most.unsqueeze(1))).all(0)
        close = close.long().cumprod(0)
        model.freeze_(close.bool() & ~before, us[:known], x0s[:known])
        return window.first + close.sum(0)

    def _mask(self, window: Window, settled: torch.Tensor, count: int) -> torch.Tensor:
        """Which of the window's first calls are settled (count, n)."""
        calls = torch.arange(window.first, window.first + count, device=settled.device)
        return calls.unsqueeze(1) < settled
