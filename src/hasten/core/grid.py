"""A Grid says which levels to visit."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from hasten.core.level import Level, Path
from hasten.core.registry import Registry


class Grid(ABC):
    """``levels(path, steps)``: ``steps + 1`` levels, noisy to clean, the last without noise."""

    part_name: ClassVar[str]

    @abstractmethod
    def positions(self, path: Path, steps: int) -> list[float]:
        """The ``steps`` positions at which a solver starts a step."""

    def levels(self, path: Path, steps: int) -> tuple[Level, ...]:
        """The levels at :meth:`positions`, and the clean one."""
        return tuple(path.at(place) for place in (*self.positions(path, steps), path.clean))


grids: Registry[Grid] = Registry("grid", "hasten.grids")
