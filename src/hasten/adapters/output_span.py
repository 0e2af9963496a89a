"""Feature caches of what some parts of a network gave: with what was kept, they do not run."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from hasten.adapters.block_span import blocks_of
from hasten.adapters.standing_in import Forward, Run, standing_in
from hasten.core.errors import require
from hasten.core.feature_cache import Features

SELF_ATTENTION = ("attn1", "attn", "attention")


class OutputSpan:
    """Keeps the outputs of ``parts`` of a network, whatever tuples they come in; ``check`` refuses
    a network that has changed since."""

    def __init__(
        self, parts: Sequence[nn.Module], check: Callable[[], object] | None = None
    ) -> None:
        self.parts, self._check = parts, check
        self._structures: dict[int, Any] = {}

    def __call__(self, run: Run, n: int, features: Features = ()) -> Any:
        """The answer of ``run``, which calls the network for ``n`` samples: with what was kept, or
        in full as (answer, features)."""
        if self._check is not None:
            self._check()
        return self._cached(run, features) if features else self._full(run, n)

    def _full(self, run: Run, n: int) -> tuple[Any, Features]:
        gave: dict[int, list[torch.Tensor]] = {}

        def watched(number: int, forward: Forward) -> Forward:
            def watch(*inputs: Any, **options: Any) -> Any:
                output = forward(*inputs, **options)
                gave[number], self._structures[number] = pytree.tree_flatten(output)
                return output

            return watch

        with standing_in(self.parts, range(len(self.parts)), watched):
            answer = run()
        require(
            len(gave) == len(self.parts),
            "a network does not run all of the parts that a feature cache keeps; drop the lever.",
        )
        every = (gave[number] for number in range(len(self.parts)))
        return answer, tuple(part.unflatten(0, (n, -1)) for parts in every for part in parts)

    def _cached(self, run: Run, features: Features) -> Any:
        left = iter(features)
        gave = {
            number: pytree.tree_unflatten(
                [next(left).flatten(0, 1) for _ in range(structure.num_leaves)], structure
            )
            for number, structure in sorted(self._structures.items())
        }

        def aside(number: int, forward: Forward) -> Forward:
            return lambda *_, **__: gave[number]

        with standing_in(self.parts, range(len(self.parts)), aside):
            return run()


def encoder_span(unet: nn.Module) -> OutputSpan:
    """All that the encoder of a U-Net hands to its decoder.

    Raises:
        UserError: it is no U-Net.
    """
    parts: Any = require_unet(unet)
    every = (parts.conv_in, *parts.down_blocks, parts.mid_block)
    chosen = [part for part in every if part is not None]
    return OutputSpan(chosen, functools.partial(require_unet, unet))


def attention_span(module: nn.Module) -> OutputSpan:
    """What the tokens of every block of a transformer attended to in each other.

    Raises:
        UserError: the network has no blocks that are known, or they have no attention.
    """
    parts = [
        part
        for block in blocks_of(module)
        for name, part in block.named_children()
        if name in SELF_ATTENTION
    ]
    require(
        len(parts) > 0,
        f"the blocks of a {type(module).__name__} have no attention that is known "
        f"({', '.join(SELF_ATTENTION)}); use the lever blocks.",
    )
    return OutputSpan(parts)


def require_unet(module: nn.Module) -> nn.Module:
    """``module``, where it is a U-Net."""
    require(
        all(hasattr(module, name) for name in ("conv_in", "down_blocks", "mid_block", "up_blocks")),
        f"no feature cache of a U-Net can split a {type(module).__name__}; use a cache for "
        "transformers: blocks, first-block or attention.",
    )
    unet: Any = module
    require(
        not any(hasattr(block, "skip_conv") for block in (*unet.down_blocks, *unet.up_blocks)),
        f"this {type(module).__name__} has skip connections of pixels, which no feature cache "
        "knows; drop the lever.",
    )
    require(
        not any(getattr(block, "s1", None) for block in unet.up_blocks),
        "a U-Net with FreeU enabled cannot be split for a feature cache; call disable_freeu().",
    )
    return module
