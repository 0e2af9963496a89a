"""What a U-Net knows of time and label, computed ahead.

A plan tells its network a few times only, so everything that depends on the time and the label
alone is a table: a row for each pair, the shifts of all residual blocks side by side. One look-up
then stands for two embeddings and a linear layer in every block.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

LARGEST = 1 << 22  # numbers of a table


class _Row:
    """Where the blocks find the shifts of the call that is going on."""

    now: torch.Tensor


class _Shift(nn.Module):
    """Stands in for a block's layer of the embedding: its columns of the row."""

    def __init__(self, row: _Row, first: int, last: int) -> None:
        super().__init__()
        self.row, self.first, self.last = row, first, last

    def forward(self, embedding: torch.Tensor) -> torch.Tensor:
        return self.row.now[:, self.first : self.last]


class _Nothing(nn.Module):
    """Stands in for an embedding that nobody reads."""

    def forward(self, given: torch.Tensor) -> torch.Tensor:
        return given


class Tabled(nn.Module):
    """A diffusers U-Net with a table of shifts in place of its embeddings; it knows ``times``
    alone, and takes the nearest of them."""

    def __init__(self, net: nn.Module, table: torch.Tensor, times: torch.Tensor, labels: int):
        super().__init__()
        self.net, self.labels = net, labels
        self.register_buffer("table", table)
        self.register_buffer("times", times)
        self.row, first = _Row(), 0
        module: Any = net.module  # type: ignore[union-attr]
        module.time_proj, module.time_embedding, module.class_embedding = (
            _Nothing(),
            _Nothing(),
            None,
        )
        for block in blocks(module):
            last = first + block.time_emb_proj.out_features
            block.time_emb_proj, block.skip_time_act = _Shift(self.row, first, last), True
            first = last

    def forward(
        self, x: torch.Tensor, t: torch.Tensor, cond: torch.Tensor | None = None
    ) -> torch.Tensor:
        place = (self.times[None] - t[:, None]).abs().argmin(1)
        self.row.now = self.table[place if cond is None else place * self.labels + cond]
        return self.net(x, t, None)


def blocks(module: Any) -> list[Any]:
    """The residual blocks that are told the time."""
    return [part for part in module.modules() if hasattr(part, "time_emb_proj")]


def tabled(net: nn.Module, times: Sequence[float]) -> nn.Module:
    """A copy of ``net`` that knows ``times`` alone, and ``net`` itself where it is no U-Net with
    plain embeddings, or where the table would be large."""
    module: Any = getattr(net, "module", None)
    if not _plain(module):
        return net
    labels = 1 if module.class_embedding is None else module.class_embedding.num_embeddings
    told = torch.tensor(list(times), dtype=torch.float32)
    with torch.no_grad():
        embedded = module.time_embedding(module.time_proj(told))[:, None]
        if module.class_embedding is not None:
            embedded = embedded + module.class_embedding.weight[None]
        embedded = embedded.flatten(0, 1)
        shifts = [
            block.time_emb_proj(embedded if block.skip_time_act else block.nonlinearity(embedded))
            for block in blocks(module)
        ]
        table = torch.cat(shifts, dim=1)
    return net if table.numel() > LARGEST else Tabled(copy.deepcopy(net), table, told, labels)


def _plain(module: Any) -> bool:
    if type(module).__name__ != "UNet2DModel" or module.config.class_embed_type is not None:
        return False
    layers = [block.time_emb_proj for block in blocks(module)]
    return bool(layers) and all(isinstance(layer, nn.Linear) for layer in layers)
