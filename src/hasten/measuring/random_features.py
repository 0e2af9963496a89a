"""Features that need no weights: fixed random convolutions."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from hasten.core.errors import require
from hasten.core.features import in_batches
from hasten.core.random_streams import generator

WIDTHS = (32, 64, 64)
SIZE = 64  # larger pictures are shrunk to this many pixels a side


class RandomFeatures:
    """Three strided convolutions and a projection to 64 numbers, with weights drawn from ``seed``.

    Nothing is trained, so the distances only compare plans of one model with each other; they say
    nothing absolute and no other project's numbers are like them. Naeem et al. (2002.09797) discuss
    random embeddings for pictures that are far from those a network was trained on.

    Args:
        channels: of the pictures, which may have any size from 4 pixels a side.
    """

    def __init__(self, channels: int, seed: int = 0) -> None:
        source = generator(seed)

        def drawn(*shape: int) -> torch.Tensor:
            gain = math.sqrt(2 / math.prod(shape[1:]))
            return gain * torch.randn(*shape, generator=source)

        insides = (channels, *WIDTHS[:-1])
        self._kernels = [drawn(out, into, 3, 3) for into, out in zip(insides, WIDTHS, strict=True)]
        self._last = drawn(64, 4 * WIDTHS[-1])
        self.name = f"random convolutions, seed {seed}"

    def __call__(self, pictures: torch.Tensor, batch: int = 500) -> torch.Tensor:
        """(n, 64), float64, for pictures (n, c, h, w) in [0, 1]."""
        channels, height, width = pictures.shape[1:]
        require(
            min(height, width) >= 4 and channels == self._kernels[0].shape[1],
            f"pictures are {channels}x{height}x{width}; these random features take "
            f"{self._kernels[0].shape[1]} channels and 4 pixels a side or more.",
        )
        return in_batches(self._features, pictures, batch)

    def _features(self, pictures: torch.Tensor) -> torch.Tensor:
        height, width = pictures.shape[2:]
        if max(height, width) > SIZE:
            size = min(height, SIZE), min(width, SIZE)
            pictures = F.interpolate(pictures, size, mode="bilinear", antialias=True)
        x = pictures * 2 - 1
        for kernel in self._kernels:
            x = F.relu(F.conv2d(x, kernel, stride=2 if x.shape[-1] >= 4 else 1, padding=1))
        return F.adaptive_avg_pool2d(x, 2).flatten(1) @ self._last.T
