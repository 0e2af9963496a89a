"""A network that can be computed in regions, however it is called."""

from __future__ import annotations

import functools

import torch
from torch import nn

from hasten.adapters.regions import Regions
from hasten.adapters.tiles import Changes
from hasten.core.call import Output
from hasten.core.condition import Condition
from hasten.core.family import inner


class InRegions(nn.Module):
    """``net`` in three ways: ``(x, t, condition) -> answer``; with a mask (n, 1, h, w) after it,
    ``-> (answer, *features)``, which says what a run in regions needs; and with a mask and those
    features, ``-> answer``, computed where the mask is True. It shares the weights of ``net``.

    Raises:
        UserError: it has no parts that can be computed in regions.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        Regions(inner(net))  # refuses a network without them
        self.net = net
        self._regions: Regions | None = None
        self._changes: Changes | None = None

    def forward(
        self,
        x: torch.Tensor,
        t: torch.Tensor,
        condition: Condition | torch.Tensor | None = None,
        *features: torch.Tensor,
    ) -> Output:
        run = functools.partial(self.net, x, t, condition)
        if not features:
            return run()
        if self._regions is None:  # of the copy that an engine made, if it made one
            self._regions = Regions(inner(self.net))
        mask, *kept = features
        if kept:
            changes = self._changes
            if changes is None or not torch.equal(changes.mask, mask):  # all steps have the same
                changes = self._changes = self._regions.changes(mask)
            return self._regions.sparse(run, len(x), tuple(kept), changes)
        answer, new = self._regions.full(run, len(x))
        return answer, *new
