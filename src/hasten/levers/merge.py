"""Token merging (ToMe 2210.09461; for diffusion 2303.17604): before the self-attention of a
transformer block the tokens that are most alike become one, and after it each has the answer of
that one. Weights stay as they are."""

from __future__ import annotations

import dataclasses
import functools
import math
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from hasten.core.errors import require, require_number
from hasten.core.lever import Lever, Trait, levers
from hasten.core.model import Model
from hasten.core.sharing import sharing_weights

if TYPE_CHECKING:
    from hasten.core.resolved import Resolved

STRIDE = 2  # of the tokens that others are merged into, along rows and columns
Fold = Callable[[torch.Tensor], torch.Tensor]
TRIED = 0.5  # the share that the tuner tries


@levers.add("merge")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Merge(Lever):
    """Merges a ``share`` of the tokens, at most 0.75, in the transformer blocks that have the most
    of them."""

    share: float = TRIED

    traits = frozenset({Trait.BITS})

    def __post_init__(self) -> None:
        require_number("lever option share", self.share, 1e-6, 0.75)

    def transform(self, model: Model, resolved: Resolved) -> Model:
        return dataclasses.replace(model, net=merged(model, self.share))

    @classmethod
    def candidates(cls, model: Model) -> list[Lever]:
        return [Merge()]


def merged(model: Model, share: float) -> torch.nn.Module:
    """``model``'s network that merges ``share`` of the tokens in the blocks that have the most of
    them; it shares its weights, and is kept as long as they are.

    Raises:
        UserError: the network has no transformer blocks of its own tokens.
    """
    networks = _MERGED.setdefault(model.net, {})
    if share not in networks:
        net = sharing_weights(model.net)
        for part in _widest(net, model):
            model.family.fold_tokens_(part, functools.partial(matching, share=share))
        networks[share] = net
    return networks[share]


_MERGED: weakref.WeakKeyDictionary[torch.nn.Module, dict[float, torch.nn.Module]] = (
    weakref.WeakKeyDictionary()
)


def matching(x: torch.Tensor, share: float) -> tuple[Fold, Fold]:
    """How to merge ``share`` of the tokens x (n, tokens, c) and how to give each its own again:
    every token of a regular sub-grid takes in the mean of those others that are most alike."""
    n, tokens, width = x.shape
    into, others, back_to = (torch.tensor(index, device=x.device) for index in _places(tokens))
    count = min(int(share * tokens), len(others))
    unit = torch.nn.functional.normalize(x.detach().float(), dim=-1)
    alike, best = (unit[:, others] @ unit[:, into].transpose(1, 2)).max(-1)
    order = alike.argsort(-1, descending=True)
    gone, stay = order[:, :count], order[:, count:]
    target = best.gather(1, gone)

    def along(index: torch.Tensor, size: int) -> torch.Tensor:
        return index[..., None].expand(-1, -1, size)

    def fold(value: torch.Tensor) -> torch.Tensor:
        rest, destinations = value[:, others], value[:, into]
        moved, index = rest.gather(1, along(gone, width)), along(target, width)
        many = torch.ones_like(destinations[..., :1]).scatter_add(
            1, target[..., None], torch.ones_like(moved[..., :1])
        )
        destinations = destinations.scatter_add(1, index, moved) / many
        return torch.cat([rest.gather(1, along(stay, width)), destinations], 1)

    def unfold(value: torch.Tensor) -> torch.Tensor:
        size = value.shape[-1]
        rest, destinations = value[:, : len(others) - count], value[:, len(others) - count :]
        back = value.new_zeros((n, len(others), size)).scatter(1, along(stay, size), rest)
        back = back.scatter(1, along(gone, size), destinations.gather(1, along(target, size)))
        out = torch.cat([back, destinations], 1)
        return out[:, back_to]

    return fold, unfold


@functools.lru_cache(maxsize=32)
def _places(tokens: int) -> tuple[list[int], list[int], list[int]]:
    """The tokens that others are merged into: every second one of every second row, where the
    tokens are a square, else one of four; the others; and where each lies in others and these."""
    side = math.isqrt(tokens)
    square = side * side == tokens
    corner = (
        (lambda k: k // side % STRIDE + k % side % STRIDE) if square else (lambda k: k % STRIDE**2)
    )
    into = [k for k in range(tokens) if corner(k) == 0]
    others = [k for k in range(tokens) if corner(k) != 0]
    place = {k: number for number, k in enumerate([*others, *into])}
    return into, others, [place[k] for k in range(tokens)]


def _widest(net: torch.nn.Module, model: Model) -> list[torch.nn.Module]:
    """The self-attentions of transformer blocks that see the most tokens."""
    condition = model.condition(1).to(model.device)
    like = {"device": model.device, "dtype": model.dtype}

    @torch.no_grad()
    def run() -> None:
        net(
            torch.zeros(1, *model.shape, **like),
            torch.ones(1, device=model.device),
            condition,
        )

    seen = model.family.tokens(net, run)
    require(
        bool(seen),
        f"lever 'merge' merges the tokens of transformer blocks, and model {model.name!r} has none "
        "whose self-attention stands alone; drop merge.",
    )
    most = max(seen.values())
    return [part for part, tokens in seen.items() if tokens == most]
