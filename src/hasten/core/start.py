"""A Start says where the walk begins."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from hasten.core.level import Level
from hasten.core.registry import Registry


class Start(ABC):
    """``begin(noise, level)``: the x that a walk from ``level`` starts with."""

    part_name: ClassVar[str]

    @abstractmethod
    def begin(self, noise: Any, level: Level) -> Any:
        """From standard normal ``noise`` (n, c, h, w)."""


starts: Registry[Start] = Registry("start", "hasten.starts")
