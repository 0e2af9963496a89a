"""An Executor decides in what order a Program's questions are answered."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Protocol

from hasten.core.ask import Backend
from hasten.core.level import Level
from hasten.core.program import Program
from hasten.core.registry import Registry

Watch = Callable[[int, Any], None]
"""Called after each network call with its number and the x0 it gave."""


class BatchedBackend(Backend, Protocol):
    """A Machine that can be asked several questions at once."""

    def denoise_many(self, xs: Sequence[Any], levels: Sequence[Level]) -> list[Any]: ...

    def among(self, rows: Sequence[int]) -> BatchedBackend: ...


class Executor(ABC):
    """``run(program, x, machine)``: the latent in the program's output register.

    ``adaptive``: how many evaluations a picture gets depends on the data or the clock.
    ``in_order``: asks every question once, after those before it, about the whole batch.
    ``wide``: asks many questions at once, so several processes can share them.
    """

    part_name: ClassVar[str]
    adaptive: ClassVar[bool] = False
    in_order: ClassVar[bool] = False
    wide: ClassVar[bool] = False

    def check(self, program: Program) -> None:
        """Refuse a program it cannot run.

        Raises:
            UserError: the program asks what this executor cannot, or is too short for it.
        """
        return None

    @abstractmethod
    def run(
        self, program: Program, x: Any, backend: BatchedBackend, watch: Watch | None = None
    ) -> Any: ...


executors: Registry[Executor] = Registry("executor", "hasten.executors")
