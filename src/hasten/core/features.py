"""Features of pictures: what quality is measured in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch


class Features(Protocol):
    """Maps pictures (n, c, h, w) in [0, 1] to features (n, d), float64 on the CPU.

    Numbers in different features, which ``name`` tells apart, cannot be compared.
    """

    @property
    def name(self) -> str: ...

    def __call__(self, pictures: torch.Tensor) -> torch.Tensor: ...


@torch.inference_mode()
def in_batches(
    features: Callable[[torch.Tensor], torch.Tensor],
    pictures: torch.Tensor,
    batch: int,
    device: torch.device | str = "cpu",
) -> torch.Tensor:
    """``features`` of ``pictures`` in float32 on ``device``, gathered in float64 on the CPU."""
    parts = [features(part.float().to(device)).cpu().double() for part in pictures.split(batch)]
    return torch.cat(parts)
