"""One of several networks, chosen for each picture by the time it is told."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from hasten.core.engine import Prepared


class ByTime(Prepared):
    """``nets[row(t)]`` answers at time t; a batch at several times is answered in parts."""

    def __init__(self, nets: Sequence[Prepared], row: Callable[[float], int]) -> None:
        self.nets, self._row = list(nets), row
        self.precision, self.versions = nets[0].precision, nets[0].versions
        self.weights_mb = round(sum(net.weights_mb for net in nets), 3)

    def __call__(
        self, x: torch.Tensor, t: torch.Tensor, cond: Any = None, *kept: torch.Tensor
    ) -> Any:
        rows = torch.tensor([self._row(time) for time in t.tolist()])
        if bool((rows == rows[0]).all()):
            return self.nets[int(rows[0])](x, t, cond)
        out = torch.empty_like(x)
        for row in rows.unique().tolist():
            mine = (rows == row).nonzero().flatten().to(x.device)
            label = None if cond is None else cond[mine]
            out[mine] = self.nets[row](x[mine], t[mine], label)
        return out
