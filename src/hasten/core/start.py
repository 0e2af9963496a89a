"""A Start says where the walk begins."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar

import torch

from hasten.core.condition import Condition
from hasten.core.level import Array, Level
from hasten.core.noise_schedule import NoiseSchedule
from hasten.core.registry import Registry

if TYPE_CHECKING:
    from hasten.core.model import Model
    from hasten.core.plan import Plan

Begin = Callable[[torch.Tensor, Level, Condition], torch.Tensor]
"""Standard normal noise (n, ...), the first level, the condition; the x the run begins with."""

Latents = Callable[[torch.Tensor, Condition], torch.Tensor]
"""Standard normal noise (n, ...) at the schedule's noisy end, the condition; the x0 of it."""

LatentsOf = Callable[["Plan"], Latents]
"""What another plan of the same model makes of its noise."""


class Start(ABC):
    """Where a walk begins: at the noisy end of the schedule, or at a level below it from something
    cheap, so that fewer evaluations are left to do (early stop, 2205.12524).

    Attributes:
        heavy: it runs a network of its own in torch, and wants all of torch's threads.
    """

    part_name: ClassVar[str]
    heavy: ClassVar[bool] = False

    def top(self, schedule: NoiseSchedule) -> float:
        """The position on ``schedule`` where the walk begins."""
        return schedule.noisy

    def evaluations(self, schedule: NoiseSchedule) -> int | None:
        """Network calls that :meth:`prepare`'s Begin makes for a picture, None where they depend on
        the data."""
        return 0

    def weights_mb(self) -> float:
        """Megabytes of what the start was learned as."""
        return 0.0

    def learned_for(self) -> str | None:
        """The sha256 of the only weights it holds for; None where any will do."""
        return None

    @abstractmethod
    def prepare(self, model: Model, other: LatentsOf) -> Begin:
        """What makes the first x for pictures of ``model``.

        Args:
            other: for starts that are another plan of the same model.

        Raises:
            UserError: the start does not fit the model.
        """

    def drawn(self, model: Model, level: Level) -> torch.nn.Module | None:
        """The start as a torch module of noise (n, c, h, w), a uniform number for each picture (n,)
        and labels (n,) or None, for runtimes without hasten; None where it is no formula."""
        return None

    def shortened(self, schedule: NoiseSchedule) -> NoiseSchedule:
        """``schedule`` from :meth:`top` down, for a grid to place levels on."""
        top = self.top(schedule)
        return schedule if top == schedule.noisy else Shortened(schedule, top)


@dataclasses.dataclass(frozen=True)
class Shortened(NoiseSchedule):
    """``whole`` from position ``top`` down, for walks that do not begin at its noisy end."""

    whole: NoiseSchedule
    top: float

    @property
    def noisy(self) -> float:
        return self.top

    @property
    def low(self) -> float:
        return self.whole.low

    @property
    def clean(self) -> float:
        return self.whole.clean

    def curve(self, position: Array) -> tuple[Array, Array, Array]:
        return self.whole.curve(position)

    def position(self, half_log_snr: float) -> float:
        return self.whole.position(half_log_snr)


starts: Registry[Start] = Registry("start", "hasten.starts")
