"""Group normalisation as sums over the pixels of each channel.

OpenVINO expands it over (n, groups, the rest), for which every channel's pixels have to lie side by
side, while its convolutions in integers want every pixel's channels side by side: all numbers are
sorted anew before and after each normalisation. Sums over the pixels of a channel need no order;
what groups have in common is worked out from those few.

In float32 alone: the mean of squares less the square of the mean, rounded to bfloat16, is too
coarse. (Centred first it costs more than it gains for one picture, and FD in bfloat16.)
"""

from __future__ import annotations

import copy

import torch
from torch import nn


class ByChannel(nn.Module):
    """``norm``, for inputs (n, c, ...) of one pixel or more."""

    share: torch.Tensor

    def __init__(self, norm: nn.GroupNorm) -> None:
        super().__init__()
        self.weight, self.bias, self.eps = norm.weight, norm.bias, norm.eps
        together = norm.num_channels // norm.num_groups
        group = torch.full((together, together), 1 / together)
        self.register_buffer("share", torch.block_diag(*[group] * norm.num_groups))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pixels, line = tuple(range(2, x.ndim)), (..., *[None] * (x.ndim - 2))
        mean, square = x.mean(pixels) @ self.share, (x * x).mean(pixels) @ self.share
        variance = (square - mean * mean).clamp(min=0)
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return x * scale[line] + (self.bias - mean * scale)[line]


def by_channel(net: nn.Module) -> nn.Module:
    """A copy of ``net`` that normalises so."""
    out = copy.deepcopy(net)
    for name, part in list(out.named_modules()):
        if isinstance(part, nn.GroupNorm) and part.affine:
            parent, _, last = name.rpartition(".")
            setattr(out.get_submodule(parent), last, ByChannel(part))
    return out
