"""The pictures that show how far a training is."""

from __future__ import annotations

import torch

from hasten.media.pictures import grid
from hasten.media.video import sheet_of
from hasten.sampling import Sampler


def preview_sheet(sampler: Sampler) -> torch.Tensor:
    """Two rows of pictures (c, h, w), of the same noise each time: every class in turn, ten at
    most. Of a model of clips, a row of frames for each of two."""
    labels, clips = sampler.model.labels, len(sampler.model.picture_shape) > 3
    n = 2 if clips else 16 if labels is None else 2 * min(labels, 10)
    made = sampler.sample(n, condition=sampler.model.labels_in_turn(n))
    return sheet_of(made) if clips else grid(made, columns=n // 2)
