"""The pictures that show how far a training is."""

from __future__ import annotations

import torch

from hasten.media.pictures import grid
from hasten.sampling import Sampler


def preview_sheet(sampler: Sampler) -> torch.Tensor:
    """Two rows of pictures (c, h, w), of the same noise each time: every class in turn, ten at
    most."""
    labels = sampler.model.labels
    n = 16 if labels is None else 2 * min(labels, 10)
    return grid(sampler.sample(n, condition=sampler.model.labels_in_turn(n)), columns=n // 2)
