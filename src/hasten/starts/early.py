"""What all starts below the top of a schedule share: early stop (2205.12524, 2202.09671)."""

from __future__ import annotations

import dataclasses
import math

import torch

from hasten.core.errors import require, require_number
from hasten.core.level import Level
from hasten.core.noise_schedule import NoiseSchedule
from hasten.core.random_streams import generator
from hasten.core.start import Start
from hasten.core.transfer import sent

BITS = 8  # how many of a picture's noise values seed the numbers that follow from it


@dataclasses.dataclass(frozen=True, kw_only=True)
class Early(Start):
    """Begins at the level whose sigma / alpha is ``ratio``; the grid goes on from there."""

    ratio: float

    def __post_init__(self) -> None:
        require_number("start option ratio", self.ratio, 1e-9, 1e9)

    def top(self, schedule: NoiseSchedule) -> float:
        high, low = schedule.at(schedule.noisy).ratio, schedule.at(schedule.low).ratio
        if math.isclose(self.ratio, high, rel_tol=1e-9):
            return schedule.noisy
        require(
            low < self.ratio < high,
            f"start option ratio is {self.ratio:g}; the levels of this schedule have sigma / alpha "
            f"from {high:g} at the top to {low:g} at the end, give one between.",
        )
        return schedule.position(-math.log(self.ratio))


def noised(x0: torch.Tensor, noise: torch.Tensor, level: Level) -> torch.Tensor:
    """``alpha * x0 + sigma * noise``, the law of the forward process."""
    return (x0 * level.alpha).add_(noise, alpha=level.sigma)


def streams(noise: torch.Tensor) -> list[torch.Generator]:
    """A generator of random numbers for each picture, seeded by the bits of its ``noise``
    (n, c, h, w): what it draws follows from the noise alone, and is independent of it."""
    rows = noise.flatten(1)[:, :BITS].float().cpu().contiguous().view(torch.int32)
    return [generator(*(value & 0xFFFFFFFF for value in row)) for row in rows.tolist()]


def second(noise: torch.Tensor) -> torch.Tensor:
    """Standard normal noise like ``noise`` (n, c, h, w), independent of it, from :func:`streams`.

    What was made of a picture's noise must not be mixed with that noise again: the two would add in
    amplitude, not in variance.
    """
    rows = [torch.randn(noise.shape[1:], generator=stream) for stream in streams(noise)]
    return sent(torch.stack(rows), noise.device)
