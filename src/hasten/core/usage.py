"""What sampling took: network evaluations and rounds, counted as they happen."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from hasten.core.call import Answer, Call, Denoiser


@dataclasses.dataclass
class Usage:
    """What the last call of :meth:`Sampler.sample` took.

    Attributes:
        evaluations: network evaluations a picture, the mean over pictures, those of the start
            aside; guidance doubles the cost of each, not their number.
        rounds: batches of evaluations one after another, the mean over batches of pictures.
        pictures: how many were made.
    """

    evaluations: float = 0.0
    rounds: float = 0.0
    pictures: int = 0


@dataclasses.dataclass
class Counted:
    """A denoiser that counts its ``calls``, and the ``rows`` (latents) in them."""

    denoiser: Denoiser
    calls: int = 0
    rows: int = 0

    def __call__(self, calls: Sequence[Call]) -> list[Answer]:
        self.calls += 1
        self.rows += sum(len(call) for call in calls)
        return self.denoiser(calls)
