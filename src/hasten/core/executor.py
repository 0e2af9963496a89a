"""An Executor decides in what order a Program's questions are answered."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

from hasten.core.ask import Machine
from hasten.core.program import Program
from hasten.core.registry import Registry

Watch = Callable[[int, Any], None]
"""Called after each network call with its number and the x0 it gave."""


class Executor(ABC):
    """``run(program, x, machine)``: the latent in the program's output register."""

    part_name: ClassVar[str]

    @abstractmethod
    def run(
        self, program: Program, x: Any, machine: Machine, watch: Watch | None = None
    ) -> Any: ...


executors: Registry[Executor] = Registry("executor", "hasten.executors")
