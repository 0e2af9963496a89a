"""A small decoder from codes to latents: the half of an autoencoder that sampling needs."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from hasten.core.codec import Shape
from hasten.core.errors import require


def halvings(shape: Shape) -> int:
    """How often a latent of ``shape`` is halved on its way to a code: down to 8x8 or fewer.

    Raises:
        UserError: height or width cannot be halved that often.
    """
    _, height, width = shape
    count = 1
    while max(height, width) > 8 * 2**count:
        count += 1
    fits = height % 2**count == 0 and width % 2**count == 0
    require(fits, f"vae: latents of {height}x{width} cannot be halved {count} times.")
    return count


class Decoder(nn.Module):
    """``codes (n, code), labels (n,) or None -> x0 (n, c, h, w)`` in the network's space."""

    def __init__(self, shape: Shape, code: int, width: int, labels: int | None) -> None:
        super().__init__()
        channels, height, breadth = shape
        self.count = halvings(shape)
        self.small = width, height >> self.count, breadth >> self.count
        self.label = None if labels is None else nn.Embedding(labels, code)
        inputs = code if labels is None else 2 * code
        self.first = nn.Linear(inputs, self.small[0] * self.small[1] * self.small[2])
        self.wider = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(self.count))
        self.last = nn.Conv2d(width, channels, 3, padding=1)

    def forward(self, codes: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor:
        if self.label is not None:
            codes = torch.cat([codes, self.label(labels)], dim=1)
        x = F.gelu(self.first(codes)).unflatten(1, self.small)
        for layer in self.wider:
            x = F.gelu(layer(F.interpolate(x, scale_factor=2.0)))
        return self.last(x)
