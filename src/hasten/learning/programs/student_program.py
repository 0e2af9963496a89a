"""The parameters of a learned program, and its differentiable run."""

from __future__ import annotations

import dataclasses

import torch
from torch.utils.checkpoint import checkpoint

from hasten.core.condition import COND, NULL, Condition
from hasten.core.level import Level
from hasten.core.model import Model
from hasten.learning.programs.solver_coefficients import SolverCoefficients, Table

NARROWEST = 0.02  # the share of the way left that a round crosses at least, and leaves at least


class StudentProgram(torch.nn.Module):
    """Levels, times and coefficients: a solver's plus corrections that begin at zero (2510.17699,
    section 4), levels by stick-breaking in half log-SNR.

    Attributes:
        sticks (rounds, width): logits of the share of the way left that each round crosses.
        free: whether the first level moves too. Noise hardly differs from noise a little lower, so
            sampling from it may begin there; a start made for a level has to begin at that.
        time_offsets (rounds, width): in half log-SNR, of the times that the network is given.
        corrections (n + 1, n + 1): added to the matrix where an evaluation may read.
    """

    def __init__(
        self, solver: SolverCoefficients, places: torch.Tensor, free: bool = False
    ) -> None:
        super().__init__()
        self.solver = solver
        rounds, width = places.shape
        n = rounds * width
        moves, narrowest = torch.ones_like(places), torch.full_like(places, NARROWEST)
        moves[0, 0], narrowest[0, 0] = float(free), 0.0
        rounds_of = torch.arange(n + 1) // width  # of each evaluation, the result last
        readable = rounds_of[:, None] > (torch.arange(n + 1) - 1) // width
        readable[0, 0] = False
        self.moves, self.narrowest, self.readable = moves, narrowest, readable
        self.sticks = torch.nn.Parameter(self._sticks(places))
        self.time_offsets = torch.nn.Parameter(torch.zeros_like(places))
        self.corrections = torch.nn.Parameter(torch.zeros(n + 1, n + 1, dtype=torch.float64))

    def _sticks(self, places: torch.Tensor) -> torch.Tensor:
        """The sticks that :meth:`places` turns into ``places``."""
        top, low = self.solver.ends
        before = torch.cat([torch.full_like(places[:1], top), places[:-1]])
        share = (places - before) / (low - before).clamp(min=1e-6)
        inner = (share - self.narrowest) / (1 - 2 * self.narrowest)
        return torch.logit(inner.clamp(1e-3, 1 - 1e-3))

    def places(self) -> torch.Tensor:
        """Half log-SNRs (rounds, width) of the levels."""
        top, low = self.solver.ends
        share = self.narrowest + (1 - 2 * self.narrowest) * torch.sigmoid(self.sticks)
        return low + (top - low) * torch.cumprod(1 - share * self.moves, dim=0)

    @property
    def kinds(self) -> int:
        """It stands for one table."""
        return 1

    def forward(self, kind: int = 0) -> Table:
        """What the parameters stand for, differentiable."""
        table = self.solver.table(self.places(), self.time_offsets)
        return dataclasses.replace(table, matrix=table.matrix + self.corrections * self.readable)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DifferentiableRun:
    """Runs a Table on ``model``'s network with gradients.

    Attributes:
        clip: every x0 is clamped to [-clip, clip].
        frugal: recompute the network's activations in the backward pass instead of keeping them.
    """

    model: Model
    guidance: float = 1.0
    clip: float | None = None
    frugal: bool = False

    def __call__(
        self, table: Table, x: torch.Tensor, condition: torch.Tensor | None
    ) -> torch.Tensor:
        """The result (n, *shape) in the network's space from the start ``x``."""
        known = [x]
        numbers = table.matrix.float()
        for n in range(len(table.t)):
            level = Level.batch(table.t[n], table.alpha[n], table.sigma[n])
            known.append(self._answer(_sum(numbers[n], known), level, condition))
        return _sum(numbers[-1], known)

    def _answer(
        self, x: torch.Tensor, level: Level, condition: torch.Tensor | None
    ) -> torch.Tensor:
        here = self.model.prediction.at(level)
        scale, skip, out = (_number(factor) for factor in (here.scale, here.skip, here.out))
        seen, t = x * scale, _number(level.t).expand(len(x))
        if self.guidance == 1.0:
            answer = self._call(seen, t, condition)
        else:
            assert condition is not None
            asked = Condition.labels_of(condition, self.model.null_label)
            branches = Condition.cat([asked.branch(COND), asked.branch(NULL)])
            both = self._call(torch.cat([seen, seen]), torch.cat([t, t]), branches)
            wanted, null = both.chunk(2)
            answer = torch.lerp(null, wanted, self.guidance)
        if self.model.learned_variance:
            answer = answer.chunk(2, dim=1)[0]
        x0 = skip * x + out * answer
        return x0 if self.clip is None else x0.clamp(-self.clip, self.clip)

    def _call(
        self, x: torch.Tensor, t: torch.Tensor, condition: Condition | torch.Tensor | None
    ) -> torch.Tensor:
        if self.frugal:
            return checkpoint(self.model.net, x, t, condition, use_reentrant=False)  # type: ignore[return-value]
        return self.model.net(x, t, condition)


def _number(value: torch.Tensor | float) -> torch.Tensor:
    return torch.as_tensor(value).float()


def _sum(row: torch.Tensor, known: list[torch.Tensor]) -> torch.Tensor:
    total = row[0] * known[0]
    for factor, answer in zip(row[1 : len(known)], known[1:], strict=True):
        total = total + factor * answer
    return total
