"""A Grid says which levels to visit."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from hasten.core.level import Level
from hasten.core.noise_schedule import NoiseSchedule
from hasten.core.registry import Registry


class Grid(ABC):
    """Where a solver takes its steps: ``steps + 1`` levels, noisy to clean, the last without
    noise. ``title`` is its name in text for people; ``part_name`` where it is empty."""

    part_name: ClassVar[str]
    title: ClassVar[str] = ""

    @abstractmethod
    def positions(self, schedule: NoiseSchedule, steps: int) -> list[float]:
        """The ``steps`` positions at which a solver starts a step."""

    def levels(self, schedule: NoiseSchedule, steps: int) -> tuple[Level, ...]:
        """The levels at :meth:`positions`, and the clean one."""
        return tuple(
            schedule.at(place) for place in (*self.positions(schedule, steps), schedule.clean)
        )


grids: Registry[Grid] = Registry("grid", "hasten.grids")
