"""Which features of a network are reused: each part names a cut that the network can be split at."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from hasten.core.errors import require_number, require_whole
from hasten.core.program import Program
from hasten.core.reuse import Features, Reuse, Scheduled, Split, reuses

UNETS = "UNet2DModel and UNet2DConditionModel"
DITS = "DiTTransformer2DModel"


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
    that reuses runs the decoder alone, at the current time, and does not look at x."""

    networks = UNETS

    def where(self) -> dict[str, Any]:
        return {}


@reuses.add("blocks")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Blocks(Scheduled):
    """What blocks ``first`` to ``last`` of a transformer (counted from 0) added to the tokens; -1 is
    the last block of all, -2 the one before. With ``forecast=1`` as TaylorSeer (2503.06923, eq. 6)
    does it, of the whole residual.
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

    def open(self, split: Split) -> Features:
        return Deciding(split)


class Deciding(Features):
    """Features of a network that decides itself: every evaluation is given what was kept."""

    def full(self, x: torch.Tensor, t: torch.Tensor, cond: Any = None) -> torch.Tensor:
        kept: tuple[torch.Tensor, ...] = ()
        if self._held and len(self._held[-1][0]) >= len(x):
            kept = tuple(one[: len(x)] for one in self._held[-1][1])
        answer, new = self._split.full(x, t, cond, *kept)
        self._held = [(t, new)]
        return answer
