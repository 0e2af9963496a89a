"""What stands for the network between two rounds: its last answers and how they would change."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch

from hasten.core.level import Level


def slope(level: Level, data_std: float) -> float:
    """d x0 / d x of the exact denoiser at ``level`` of normal data with this standard deviation
    (the Wiener filter). 0 leaves x0 as it is when x changes, a large one leaves the noise."""
    signal = level.alpha * data_std**2
    return signal / (level.alpha * signal + level.sigma**2)


class Surrogate(ABC):
    """For each network call of a window: ``x0 = answer + J (u - question)``, with the question and
    the answer of the last round, and a J as good as the subclass knows it.

    All it holds has the window's calls in front: (calls, n, c, h, w). A question that was asked
    itself has its true answer, whatever J is. A call that was never asked is supposed to answer
    what the call before it does, and before any was asked what the exact denoiser of normal data
    with mean 0 does.
    """

    def __init__(self, size: int, levels: tuple[Level, ...], x: torch.Tensor, data_std: float):
        self.known, self.first = 0, 0  # calls that have an answer; number of the window's first
        self.slopes = [slope(level, data_std) for level in levels]
        self.questions = x.new_zeros(size, *x.shape)
        self.answers = x.new_zeros(size, *x.shape)
        self.moves = x.new_zeros(size, len(x))  # of the questions in the last round; see moved
        self._guess: torch.Tensor | None = None

    def __call__(self, call: int, u: torch.Tensor) -> torch.Tensor:
        """The x0 supposed for the question ``u`` of network call ``call``; asked in order."""
        place = call - self.first
        if place < self.known:
            change = u - self.questions[place]
            self._guess = self.answers[place] + self.correction(place, change)
        return u * self.slopes[call] if self._guess is None else self._guess

    @abstractmethod
    def correction(self, place: int, change: torch.Tensor) -> torch.Tensor:
        """J times ``change`` at a place of the window."""

    def moved(self, us: torch.Tensor) -> torch.Tensor:
        """Root mean square (calls, n) of how far the window's first questions are from ``us``."""
        return (us - self.questions[: len(us)]).flatten(2).square().mean(2).sqrt()

    def freeze_(self, settled: torch.Tensor, us: torch.Tensor, x0s: torch.Tensor) -> None:
        """Hold the pictures of the mask ``settled`` (calls, n) at these questions and answers."""
        mask, count = _wide(settled, us), len(us)
        self.questions[:count] = torch.where(mask, us, self.questions[:count])
        self.answers[:count] = torch.where(mask, x0s, self.answers[:count])

    def learn_(self, settled: torch.Tensor, us: torch.Tensor, x0s: torch.Tensor) -> None:
        """Take the answers ``x0s`` of a round to the questions ``us``, but for what is settled."""
        mask, count = _wide(settled, us), len(us)
        us = torch.where(mask, self.questions[:count], us)
        x0s = torch.where(mask, self.answers[:count], x0s)
        if self.known:
            self.moves[: self.known] = self.moved(us[: self.known])
            self.compare_(us[: self.known], x0s[: self.known])
        self.questions[:count], self.answers[:count] = us, x0s
        self.known = count

    @abstractmethod
    def compare_(self, us: torch.Tensor, x0s: torch.Tensor) -> None:
        """Learn J from how questions and answers changed since the round before."""

    def shift_(self, count: int) -> None:
        """Let the window's first ``count`` calls go."""
        self._guess = self.answers[count - 1]
        for name, value in list(vars(self).items()):
            if isinstance(value, torch.Tensor) and name != "_guess":
                setattr(self, name, torch.cat([value[count:], torch.zeros_like(value[:count])]))
        self.known, self.first = self.known - count, self.first + count


def _wide(mask: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return mask.view(*mask.shape, *[1] * (like.ndim - mask.ndim))


class Wiener(Surrogate):
    """J is that of normal data: one number a level."""

    def correction(self, place: int, change: torch.Tensor) -> torch.Tensor:
        return change * self.slopes[self.first + place]

    def compare_(self, us: torch.Tensor, x0s: torch.Tensor) -> None:
        pass  # what it needs it knows
