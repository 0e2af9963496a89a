"""Which features of a network are reused: each part names a cut that a network is split at."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import torch

from hasten.core.errors import require, require_number, require_whole
from hasten.core.feature_cache import Features, Reuse, Scheduled, Split, reuses
from hasten.core.program import Program

UNETS = "U-Nets"
DITS = "diffusion transformers"


@reuses.add("deep")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Deep(Scheduled):
    """The deep features of a U-Net (DeepCache, 2312.00858, section 3.2): what enters the decoder
    layer that reads skip connection ``branch``, 0 the outermost. Everything outside is current.
    """

    branch: int = 1
    networks = UNETS

    def __post_init__(self) -> None:
        super().__post_init__()
        require_whole("reuse option branch", self.branch, 0, 10_000)

    def where(self) -> dict[str, Any]:
        return {"branch": self.branch}


@reuses.add("encoder")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Encoder(Scheduled):
    """All features of a U-Net's encoder (Faster Diffusion, 2312.09608, section 3.2): an evaluation
    that reuses runs the decoder alone, at the current time, and does not look at x.

    Attributes:
        batched: the decoder runs once for all evaluations up to the next full one, in a batch as
            many times as large: faster where a small batch leaves the device idle.
    """

    batched: bool = False
    networks = UNETS

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            isinstance(self.batched, bool),
            f"reuse option batched is {self.batched!r}; it takes True or False.",
        )

    def open(self, split: Split, program: Program | None = None) -> Features:
        if program is None or not self.batched:
            return super().open(split)
        return Ahead(split, program, self.forecast)

    def where(self) -> dict[str, Any]:
        return {}


@reuses.add("blocks")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Blocks(Scheduled):
    """What blocks ``first`` to ``last`` of a transformer (counted from 0) added to the tokens; -1
    is the last block of all, -2 the one before. With ``forecast=1`` the idea of TaylorSeer
    (2503.06923), applied to the whole residual.
    """

    first: int = 1
    last: int = -2
    networks = DITS

    def __post_init__(self) -> None:
        super().__post_init__()
        require_whole("reuse option first", self.first, 0, 10_000)
        require_whole("reuse option last", self.last, -10_000, 10_000)

    def where(self) -> dict[str, Any]:
        return {"first": self.first, "last": self.last}


@reuses.add("attention")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Attention(Scheduled):
    """What the attention of every block of a transformer gave, before its gate (as pyramid
    attention broadcast does, 2408.12588): gates, normalisation and the other half of each block are
    current.
    """

    networks = DITS

    def where(self) -> dict[str, Any]:
        return {}


@reuses.add("first-block")
@dataclasses.dataclass(frozen=True, kw_only=True)
class FirstBlock(Reuse):
    """The residual of all blocks after the first, for each picture whose first block added nearly
    what it added at the picture's last full evaluation: mean absolute change over mean absolute
    value below ``threshold``. Each picture decides for itself, never for its batch.
    """

    threshold: float = 0.1
    networks = DITS
    static = False
    engines = ("eager",)  # which blocks run depends on the data

    def __post_init__(self) -> None:
        require_number("reuse option threshold", self.threshold, 0.0, 100.0)

    def where(self) -> dict[str, Any]:
        return {"threshold": float(self.threshold)}

    def marked(self, program: Program) -> Program:
        return program

    def open(self, split: Split, program: Program | None = None) -> Features:
        return Deciding(split)


class Ahead(Features):
    """Features of a network whose part does not look at x, so that its answers at all evaluations
    of ``program`` up to the next full one can be had at once."""

    def __init__(self, split: Split, program: Program, forecast: int = 0) -> None:
        super().__init__(split, forecast)
        self._times = [level.t for level in program.levels]
        self._reuses, self._asked = program.reuses, 0
        self._answers: list[torch.Tensor] = []

    def full(self, x: torch.Tensor, t: torch.Tensor, cond: Any = None) -> torch.Tensor:
        self._asked, self._answers = self._asked + 1, []
        return super().full(x, t, cond)

    def part(self, x: torch.Tensor, t: torch.Tensor, cond: Any = None) -> torch.Tensor:
        if not self._answers:
            coming = zip(self._times[self._asked :], self._reuses[self._asked :], strict=True)
            block = [time for time, _ in itertools.takewhile(lambda one: one[1], coming)]
            times = [torch.full_like(t, time) for time in block]
            kept = [torch.cat(parts) for parts in zip(*map(self.at, times), strict=True)]
            labels = None if cond is None else torch.cat([cond] * len(block))
            xs = torch.cat([x] * len(block))
            answer = self._split.part(xs, torch.cat(times), labels, *kept)
            self._answers = list(answer.split(len(x)))
        self._asked += 1
        return self._answers.pop(0)[: len(x)]


class Deciding(Features):
    """Features of a network that decides itself: every evaluation is given what was kept."""

    def full(self, x: torch.Tensor, t: torch.Tensor, cond: Any = None) -> torch.Tensor:
        kept: tuple[torch.Tensor, ...] = ()
        if self._held and len(self._held[-1][0]) >= len(x):
            kept = tuple(one[: len(x)] for one in self._held[-1][1])
        answer, new = self._split.full(x, t, cond, *kept)
        self._held = [(t, new)]
        return answer
