"""The noise of a batch of pictures."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from hasten.core.model import Model
from hasten.core.random_streams import Stream, generator
from hasten.core.transfer import sent

START, WALK = Stream.START, Stream.SOLVER


class Draws:
    """Noise for a batch, each picture from its own CPU generator, seeded by (seed, picture)."""

    def __init__(self, seed: int, pictures: Sequence[int], model: Model) -> None:
        self._streams = [
            [generator(seed, picture, stream) for picture in pictures] for stream in (START, WALK)
        ]
        self._shape, self._device = model.shape, model.device

    def __call__(self, stream: int, rows: Sequence[int] | None = None) -> torch.Tensor:
        """The next noise of all pictures, or of those at ``rows`` of the batch alone."""
        generators = self._streams[stream]
        if rows is not None:
            generators = [generators[row] for row in rows]
        out = torch.empty(len(generators), *self._shape)
        for row, rng in zip(out, generators, strict=True):
            row.normal_(generator=rng)
        return sent(out, self._device)
