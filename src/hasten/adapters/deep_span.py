"""The deep features of a U-Net of any class and conditioning (DeepCache, 2312.00858, section 3.2).

Decoder layers read the skip connections from the innermost to the outermost. With what was kept,
the decoder begins at the layer that reads skip connection ``branch``, and the encoder ends with the
layer that writes it; the others stand aside, and what they hand on is never looked at.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from hasten.adapters.output_span import require_unet
from hasten.adapters.standing_in import Forward, Run, standing_in
from hasten.core.errors import require
from hasten.core.feature_cache import Features

HIDDEN, SKIPS = "hidden_states", "res_hidden_states_tuple"  # what a decoder block is given
RESIDUALS = "additional_residuals"  # what an encoder block is given by an adapter
LISTS = ("resnets", "attentions", "motion_modules")  # the layers of either


class DeepSpan:
    """Keeps what enters the decoder layer that reads skip connection ``branch``, 0 the outermost.

    Raises:
        UserError: the network is no U-Net, or has not as many branches.
    """

    def __init__(self, module: nn.Module, branch: int) -> None:
        unet: Any = require_unet(module)
        self.unet = module
        self.kind = type(unet).__name__
        counts = [len(block.resnets) for block in unet.up_blocks]
        require(
            branch < sum(counts),
            f"lever option branch is {branch}, but this {self.kind} has {sum(counts)} branches; "
            f"give 0 (the cheapest) to {sum(counts) - 1}.",
        )
        number, inside = len(counts) - 1, branch
        while inside >= counts[number]:
            inside, number = inside - counts[number], number - 1
        self.entry: Any = unet.up_blocks[number]
        self.skipped = counts[number] - 1 - inside  # layers of that block that stand aside
        self.encoder = _read(unet, branch)
        middle = [] if unet.mid_block is None else [unet.mid_block]
        self.absent = [*middle, *unet.up_blocks[:number]]

    def __call__(self, run: Run, n: int, features: Features = ()) -> Any:
        """The answer of ``run``, which calls the network for ``n`` samples: with what was kept, or
        in full as (answer, features)."""
        require_unet(self.unet)  # FreeU may be on since
        return self._cached(run, features) if features else self._full(run, n)

    def _full(self, run: Run, n: int) -> tuple[Any, Features]:
        deep: list[torch.Tensor] = []
        skips: tuple[torch.Tensor, ...] = ()

        def watched(number: int, forward: Forward) -> Forward:
            def block(*inputs: Any, **options: Any) -> Any:
                nonlocal skips
                given = _bound(self.entry, inputs, options).arguments
                skips = given[SKIPS]
                if self.skipped == 0:
                    deep.append(given[HIDDEN])
                return forward(*inputs, **options)

            def layer(*inputs: Any, **options: Any) -> Any:
                both = next(iter((*inputs, *options.values())))
                read = skips[len(skips) - 1 - self.skipped].shape[1]
                deep.append(both[:, :-read])
                return forward(*inputs, **options)

            return layer if number else block

        parts = [self.entry, self.entry.resnets[self.skipped]]
        with standing_in(parts, (0, 1) if self.skipped else (0,), watched):
            answer = run()
        require(len(deep) == 1, f"{self.kind} does not run its decoder once; drop the lever.")
        return answer, (deep[0].unflatten(0, (n, -1)),)

    def _cached(self, run: Run, features: Features) -> Any:
        deep = features[0].flatten(0, 1)
        nothing = deep.new_zeros(())  # which anything adds to, as a ControlNet does

        def entered(_: int, forward: Forward) -> Forward:
            def late(*inputs: Any, **options: Any) -> Any:
                bound = _bound(self.entry, inputs, options)
                skips = bound.arguments[SKIPS]
                bound.arguments[HIDDEN] = deep
                bound.arguments[SKIPS] = skips[: len(skips) - self.skipped]
                with _layers(self.entry, slice(self.skipped, None)):
                    return forward(*bound.args[1:], **bound.kwargs)

            return late

        def ended(number: int, forward: Forward) -> Forward:
            block, read = self.encoder[number]
            rest = (nothing,) * (_written(block) - read)

            def early(*inputs: Any, **options: Any) -> Any:
                if read == 0:
                    return nothing, rest
                options.pop(RESIDUALS, None)  # of the last layer, which does not run
                with _layers(block, slice(read), ends=False):
                    return nothing, (*forward(*inputs, **options)[1], *rest)

            return early

        def absent(number: int, forward: Forward) -> Forward:
            return lambda *_, **__: nothing

        encoder = [block for block, _ in self.encoder]
        with (
            standing_in([self.entry], (0,), entered),
            standing_in(encoder, range(len(encoder)), ended),
            standing_in(self.absent, range(len(self.absent)), absent),
        ):
            return run()


def _read(unet: Any, branch: int) -> list[tuple[Any, int]]:
    """The encoder blocks of whose layers not all are read up to connection ``branch``, and how many
    are: what the first convolution gives is connection 0."""
    out, left = [], branch
    for block in unet.down_blocks:
        read = min(left, _written(block))
        left -= read
        if read < _written(block):
            out.append((block, read))
    return out


def _written(block: Any) -> int:
    """How many skip connections an encoder block writes."""
    return len(block.resnets) + bool(block.downsamplers)


@contextlib.contextmanager
def _layers(block: Any, chosen: slice, ends: bool = True) -> Iterator[None]:
    """A block with some of its layers alone, without what changes the size where not ``ends``."""
    lists = {name: getattr(block, name, None) for name in LISTS}
    lists = {name: value for name, value in lists.items() if isinstance(value, nn.ModuleList)}
    sizes = None if ends else block.downsamplers
    try:
        for name, value in lists.items():
            setattr(block, name, value[chosen])
        if not ends:
            block.downsamplers = None
        yield
    finally:
        for name, value in lists.items():
            setattr(block, name, value)
        if not ends:
            block.downsamplers = sizes


def _bound(
    block: nn.Module, inputs: tuple[Any, ...], options: dict[str, Any]
) -> inspect.BoundArguments:
    return inspect.signature(type(block).forward).bind(block, *inputs, **options)
