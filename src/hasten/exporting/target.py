"""Where a plan can be exported to."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch

from hasten.core.model import Model
from hasten.core.registry import Registry
from hasten.exporting.bundle import NET, Bundle

Condition = int | np.ndarray | None
Call = Callable[[torch.Tensor, float, Condition], torch.Tensor]
"""x (1, ...), a time, a label, words (1, length, width) or None: the network's own answer, as the
runtime gives it. A start is called with noise, a number from 0 to 1 and a label."""


def arrays(x: torch.Tensor, t: float, condition: Condition) -> list[np.ndarray]:
    """What a runtime is given."""
    given = condition if isinstance(condition, np.ndarray) else np.array([condition or 0], np.int64)
    return [x.numpy(), np.array([t], np.float32), given]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Target(ABC):
    """A runtime: ``write`` fills a folder, ``network`` opens what was written in that runtime, the
    one called ``name`` of :meth:`~hasten.exporting.bundle.Bundle.networks`.

    ``bound``: how far (relative, root mean square) an answer of the network may be from eager
    float32; ``others``: whether plans of more or fewer steps are taken along; ``dtypes``: what it
    computes in; ``prompts``: whether a text encoder and a decoder can go along.
    """

    part_name: ClassVar[str]
    bound: ClassVar[float] = 1e-3
    others: ClassVar[bool] = False
    dtypes: ClassVar[tuple[str, ...]] = ("float32",)
    prompts: ClassVar[bool] = False

    def check(self, model: Model) -> None:  # noqa: B027
        """Refuse where a package is missing, with the line that installs it."""

    @abstractmethod
    def write(self, bundle: Bundle, folder: Path) -> None: ...

    @abstractmethod
    def network(self, bundle: Bundle, folder: Path, name: str = NET) -> Call: ...


targets: Registry[Target] = Registry("target", "hasten.exporting.targets")
