"""The network's Jacobian at every level, from how its answers changed between rounds."""

from __future__ import annotations

import torch

from hasten.core.level import Level
from hasten.executors.surrogate import Surrogate

KEEP = 0.1  # weight of the rounds before in the diagonal, a round
RIDGE = 0.1  # of the multisecant equations, whose secants have length 1
REACH = 32  # a neighbour whose secant is borrowed lies a part of the program away: 1 / REACH
STILL = 1e-6  # a question that moved by less, relative to the level's spread, tells nothing


class Secants(Surrogate):
    """J = diagonal + low rank, for each picture and level.

    The diagonal is a least-squares fit of the changes of x0 to those of x, pixel by pixel, drawn
    towards the picture's mean. The rest is the multisecant update of type I (Anderson acceleration
    as Fang & Saad 2009 write it): the smallest change of J that explains the last ``memory``
    changes at this level, and the last one of a neighbour on either side. There is one J a level,
    used in a triangular solve, as in 2402.09970: later levels never move an earlier question.
    """

    def __init__(
        self,
        size: int,
        levels: tuple[Level, ...],
        x: torch.Tensor,
        data_std: float,
        memory: int,
    ):
        super().__init__(size, levels, x, data_std)
        self._levels = levels
        self._reach = max(1, len(levels) // REACH)
        pixels = x[0].numel()
        self.extra = torch.zeros_like(self.questions)  # the diagonal, beyond the Wiener slope
        self.products, self.squares = torch.zeros_like(self.extra), torch.zeros_like(self.extra)
        history = (size, len(x), memory, pixels)
        self.steps, self.changes = x.new_zeros(history), x.new_zeros(history)
        rank = (size, len(x), memory + 2, pixels)
        self.project, self.expand = x.new_zeros(rank), x.new_zeros(rank)

    def correction(self, place: int, change: torch.Tensor) -> torch.Tensor:
        flat = change.flatten(1).unsqueeze(2)
        weights = self.project[place] @ flat  # (n, rank, 1)
        low = (weights.transpose(1, 2) @ self.expand[place]).view_as(change)
        slope = self.extra[place] + self.slopes[self.first + place]
        return torch.addcmul(low, slope, change)

    def compare_(self, us: torch.Tensor, x0s: torch.Tensor) -> None:
        known = len(us)
        step, change = us - self.questions[:known], x0s - self.answers[:known]
        self._fit_diagonal_(step, change)
        self.steps, self.changes = self.steps.roll(1, 2), self.changes.roll(1, 2)
        self.steps[:, :, 0], self.changes[:, :, 0] = 0, 0
        self.steps[:known, :, 0], self.changes[:known, :, 0] = step.flatten(2), change.flatten(2)
        self._fit_rest_(known)

    def _fit_diagonal_(self, step: torch.Tensor, change: torch.Tensor) -> None:
        known, n = step.shape[:2]
        some = slice(0, known)
        self.products[some].mul_(KEEP).addcmul_(step, change)
        self.squares[some].mul_(KEEP).addcmul_(step, step)
        each = (known, n, *[1] * (step.ndim - 2))
        product = self.products[some].flatten(2).mean(2).view(each)
        square = self.squares[some].flatten(2).mean(2).view(each)
        slopes = self._column(self.slopes[self.first : self.first + known], step)
        levels = self._levels[self.first : self.first + known]
        # x0 and the noise make x together, so an answer that is to denoise moves by 0 to 1 / alpha.
        most = self._column([1 / max(level.alpha, 1e-6) for level in levels], step)
        slope = (self.products[some] + product) / (self.squares[some] + square).clamp(min=1e-30)
        slope = torch.minimum(slope.clamp(min=0), most)
        still = self._column([(STILL * level.spread) ** 2 for level in levels], step)
        self.extra[some] = torch.where(square > still, slope - slopes, self.extra[some])

    def _fit_rest_(self, known: int) -> None:
        """``expand^T project`` = R (S^T S + ridge)^-1 S^T, with what is left of the changes R."""
        place = torch.arange(known, device=self.steps.device)
        around = [(place + by).clamp(0, known - 1) for by in (-self._reach, self._reach)]
        steps, changes = (
            torch.cat([history[:known], *(history[at, :, :1] for at in around)], 2)
            for history in (self.steps, self.changes)
        )
        slopes = self._column(self.slopes[self.first : self.first + known], steps)
        diagonal = self.extra[:known].flatten(2).unsqueeze(2) + slopes
        levels = self._levels[self.first : self.first + known]
        least = (
            STILL * steps.shape[3] ** 0.5 * self._column([level.spread for level in levels], steps)
        )
        norms = steps.norm(dim=3, keepdim=True).clamp(min=least)
        units, ridge = steps / norms, RIDGE * torch.eye(steps.shape[2]).to(steps)
        self.project[:known] = torch.linalg.solve(units @ units.transpose(2, 3) + ridge, units)
        self.expand[:known] = (changes - diagonal * steps) / norms

    def _column(self, values: list[float], like: torch.Tensor) -> torch.Tensor:
        column = torch.tensor(values, dtype=like.dtype, device=like.device)
        return column.view(-1, *[1] * (like.ndim - 1))
