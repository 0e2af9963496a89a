"""An Executor decides in what order a Program's evaluations happen."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

import torch

from hasten.core.program import Program
from hasten.core.registry import Registry
from hasten.core.session import Session

Watch = Callable[[int, torch.Tensor], None]
"""Called after each network call with its number and the x0 it gave."""

Registers = dict[str, torch.Tensor]
"""The latents of a run by name, each (n, ...)."""


class Executor(ABC):
    """Drives a Program.

    ``adaptive``: how many evaluations a sample gets depends on the data or the clock.
    ``exact``: makes the samples that evaluations in order make, within its tolerance.
    ``in_order``: asks for every evaluation once, after those before it, of the whole batch.
    ``wide``: asks for many evaluations at once, so several processes can share them.
    """

    part_name: ClassVar[str]
    adaptive: ClassVar[bool] = False
    exact: ClassVar[bool] = True
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
        self,
        program: Program,
        registers: Registers,
        session: Session,
        watch: Watch | None = None,
    ) -> torch.Tensor:
        """The latents (n, ...) in the program's output register.

        Args:
            registers: the program's inputs by name; used up.
            session: answers evaluations, and draws noise.
        """


executors: Registry[Executor] = Registry("executor", "hasten.executors")
