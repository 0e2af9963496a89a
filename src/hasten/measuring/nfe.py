"""How often the network is asked: known beforehand, or counted where the data decide."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from hasten.core.start import starts
from hasten.sampling import Sampler

COUNTED = 3  # pictures, one at a time, where the number depends on the data


@dataclasses.dataclass
class Counting:
    """A denoiser that counts its ``calls``, and the ``rows`` (latents) in them."""

    denoiser: Any
    calls: int = 0
    rows: int = 0

    def __call__(self, x: torch.Tensor, *given: Any, **options: Any) -> torch.Tensor:
        self._count_(x)
        return self.denoiser(x, *given, **options)

    def many(self, x: torch.Tensor, *given: Any) -> torch.Tensor:
        self._count_(x)
        return self.denoiser.many(x, *given)

    def with_variance(self, x: torch.Tensor, *given: Any, **options: Any) -> Any:
        self._count_(x)
        return self.denoiser.with_variance(x, *given, **options)

    def raw(self, x: torch.Tensor, *given: Any, **options: Any) -> torch.Tensor:
        self._count_(x)
        return self.denoiser.raw(x, *given, **options)

    def _count_(self, x: torch.Tensor) -> None:
        self.calls += 1
        self.rows += len(x)


def counted(sampler: Sampler) -> tuple[float, float]:
    """(evaluations, rounds) of one picture: how often the network is asked about it, and how many
    network calls follow each other; the start's are in both. A mean over a few pictures where they
    depend on the data."""
    before = starts.parse(sampler.plan.start).evaluations(sampler.model.schedule) or 0
    if sampler.program is not None and not sampler.executor.adaptive:
        return before + sampler.program.evaluations, before + sampler.program.rounds
    count = Counting(sampler.denoiser)
    watched = dataclasses.replace(sampler, denoiser=count)
    label = None if sampler.model.labels is None else 0
    for picture in range(COUNTED):
        watched.sample(1, first=picture, cond=label)
    return before + count.rows / COUNTED, before + count.calls / COUNTED
