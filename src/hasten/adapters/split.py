"""Which networks can be split for a feature cache, and where: a line per class and cut."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from hasten.adapters.block_span import BlockSpan
from hasten.adapters.first_block import FirstBlockSpan
from hasten.adapters.split_dit import AttentionSplit, BlocksSplit, FirstBlockSplit
from hasten.adapters.split_unet import DeepSplit, EncoderSplit
from hasten.core.errors import UserError

SPLITS: dict[str, dict[str, type[torch.nn.Module]]] = {
    "UNet2DModel": {"deep": DeepSplit, "encoder": EncoderSplit},
    "UNet2DConditionModel": {"deep": DeepSplit, "encoder": EncoderSplit},
    "DiTTransformer2DModel": {
        "blocks": BlocksSplit,
        "attention": AttentionSplit,
        "first-block": FirstBlockSplit,
    },
}

Span = BlockSpan | FirstBlockSpan
SPANS: dict[str, Callable[..., Span]] = {"blocks": BlockSpan, "first-block": FirstBlockSpan}
"""What a network of any class with a list of blocks can keep."""


def span(module: torch.nn.Module, kind: str, **where: Any) -> Span:
    """What the feature cache ``kind`` keeps of the blocks of ``module``, however it is called.

    Raises:
        UserError: it is no cache of blocks, or the network has none that are known.
    """
    if kind not in SPANS:
        raise UserError(
            f"lever {kind!r} cannot split a captured {type(module).__name__}; "
            f"{' and '.join(SPANS)} can, where it is a transformer."
        )
    return SPANS[kind](module, **where)


def split(module: torch.nn.Module, kind: str, **where: object) -> torch.nn.Module:
    """``module`` as a network that keeps features, cut as the feature cache ``kind`` does it.

    Raises:
        UserError: the class cannot be split so, or not there.
    """
    names = [cls.__name__ for cls in type(module).__mro__]
    known = next((SPLITS[name] for name in names if name in SPLITS), {})
    if kind not in known:
        able = [name for name, cuts in SPLITS.items() if kind in cuts]
        also = f" This one can be split by {', '.join(known)}." if known else ""
        raise UserError(
            f"lever {kind!r} cannot split a {names[0]}; it splits {', '.join(able)}.{also}"
        )
    return known[kind](module, **where)
