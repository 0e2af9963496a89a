"""A feature cache that decides itself, after the first block of a network, whether the others have
to run (as ParaAttention's first-block cache does, but for each sample alone)."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from hasten.adapters.block_span import BlockSpan, Given, blocks_of
from hasten.adapters.standing_in import Forward, Run, standing_in
from hasten.core.errors import require
from hasten.core.feature_cache import Features


class FirstBlockSpan:
    """Keeps what all blocks after the first add, for every sample whose first block adds nearly
    what it added at the sample's last full evaluation.

    Where some samples of a batch have moved on and others have not, the blocks run for all and the
    others keep what they had, so no sample depends on those beside it.
    """

    def __init__(self, module: nn.Module, threshold: float) -> None:
        require(
            len(blocks_of(module)) > 1,
            "lever 'first-block' needs a network of two blocks or more.",
        )
        self.threshold = threshold
        self.lead, self.rest = BlockSpan(module, 0, 0), BlockSpan(module, 1, -1)

    def __call__(self, run: Run, n: int, features: Features = ()) -> tuple[Any, Features]:
        """The answer of ``run``, which calls the network for ``n`` samples, and what is kept of
        each; ``features`` are what was kept before."""
        if not features:
            (answer, rest), lead = self.lead.full(lambda: self.rest.full(run, n), n)
            return answer, (*lead, *rest)
        decision = _Decision(self, features, n)
        blocks = self.rest.blocks
        with standing_in(blocks, range(len(blocks)), decision.forward):
            return run(), decision.features


class _Decision:
    """One evaluation that decides, after its first block, which samples have moved on."""

    def __init__(self, span: FirstBlockSpan, features: Features, n: int) -> None:
        self.span, self.n = span, n
        self.lead, self.rest = features[: span.lead.kept], features[span.lead.kept :]
        self.moved = torch.ones(n, dtype=torch.bool)
        self.entered: Given = {}

    @property
    def features(self) -> Features:
        return (*self.lead, *self.rest)

    def forward(self, number: int, forward: Forward) -> Forward:
        """What stands in for the forward of block ``number``."""

        def decide(*inputs: Any, **options: Any) -> Any:
            output = forward(*inputs, **options)
            lead = self.span.lead
            here = lead.call(0, inputs, options, output)
            added = lead.added(here.given, here.gave, self.n)
            new, old = added[lead.tokens], self.lead[lead.tokens]
            places = tuple(range(1, new.ndim))
            apart = (new - old).abs().mean(places) / old.abs().mean(places).clamp_min(1e-12)
            self.moved = apart >= self.span.threshold
            self.lead = self._renewed(self.lead, added)
            return output

        def go_on(*inputs: Any, **options: Any) -> Any:
            rest = self.span.rest
            given = rest.given(number, inputs, options)
            if number == rest.first:
                self.entered = given
            if not bool(self.moved.any()):
                return rest.handed_on(number, given, self.rest)
            output = forward(*inputs, **options)
            if number < rest.last:
                return output
            gave = rest.call(number, inputs, options, output).gave
            self.rest = self._renewed(self.rest, rest.added(self.entered, gave, self.n))
            return rest.left(self.entered, self.rest)

        return go_on if number else decide

    def _renewed(self, old: Features, new: Features) -> Features:
        """``new`` for the samples that have moved on, ``old`` for the others."""
        pairs = zip(old, new, strict=True)
        return tuple(
            torch.where(self.moved.view(-1, *[1] * (b.ndim - 1)), b, a.to(b.dtype))
            for a, b in pairs
        )
