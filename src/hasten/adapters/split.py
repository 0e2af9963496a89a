"""Which networks can be split for a feature cache, and where: a line per class and cut."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from hasten.adapters.block_span import BlockSpan
from hasten.adapters.deep_span import DeepSpan
from hasten.adapters.first_block import FirstBlockSpan
from hasten.adapters.output_span import OutputSpan, attention_span, encoder_span
from hasten.adapters.split_dit import AttentionSplit, BlocksSplit, FirstBlockSplit
from hasten.adapters.split_unet import DeepSplit, EncoderSplit
from hasten.core.errors import UserError, require

SPLITS: dict[str, dict[str, type[torch.nn.Module]]] = {
    "UNet2DModel": {"deep": DeepSplit, "encoder": EncoderSplit},
    "UNet2DConditionModel": {"deep": DeepSplit, "encoder": EncoderSplit},
    "DiTTransformer2DModel": {
        "blocks": BlocksSplit,
        "attention": AttentionSplit,
        "first-block": FirstBlockSplit,
    },
}

Span = BlockSpan | FirstBlockSpan | OutputSpan | DeepSpan
SPANS: dict[str, Callable[..., Span]] = {
    "blocks": BlockSpan,
    "first-block": FirstBlockSpan,
    "attention": attention_span,
    "deep": DeepSpan,
    "encoder": encoder_span,
}
"""What can be kept of a network of any class, however it is called."""


def span(module: torch.nn.Module, kind: str, **where: Any) -> Span:
    """What the feature cache ``kind`` keeps of ``module``.

    Raises:
        UserError: a network that has no such parts.
    """
    require(
        kind in SPANS,
        f"lever {kind!r} cannot split a captured network; {', '.join(SPANS)} can.",
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
