"""What a network predicts, translated to the clean picture x0.

Every prediction in use is linear: ``x0 = skip * x + out * net(scale * x, t)``. So a prediction is a
function from a Level to those three numbers; the training target follows from them. The formulas
hold for a level of numbers and, in training, for a batch of levels as arrays or tensors.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from typing import ClassVar

from hasten.core.errors import UserError, require_number
from hasten.core.level import Level
from hasten.core.registry import Registry


@dataclasses.dataclass(frozen=True)
class Translation:
    """``x0 = skip * x + out * net(scale * x, t)`` at one level."""

    scale: float
    skip: float
    out: float

    def target(self, level: Level) -> tuple[float, float]:
        """(a, b): the network should answer ``a * x0 + b * noise`` at ``level``."""
        return (1 - self.skip * level.alpha) / self.out, -self.skip * level.sigma / self.out


class Prediction(ABC):
    """What the network answers: a function from a level to a :class:`Translation`."""

    part_name: ClassVar[str]

    @abstractmethod
    def at(self, level: Level) -> Translation: ...


predictions: Registry[Prediction] = Registry("prediction")


@predictions.add("epsilon")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Epsilon(Prediction):
    """The noise (Ho et al. 2006.11239, eq. 15)."""

    def at(self, level: Level) -> Translation:
        silent = level.alpha == 0
        if silent if isinstance(silent, bool) else bool(silent.any()):
            raise UserError(
                "prediction 'epsilon' says nothing about the picture at a level without signal "
                "(alpha = 0); start the grid lower, or use a 'v', 'x0' or 'flow' network."
            )
        return Translation(1.0, 1 / level.alpha, -level.sigma / level.alpha)


@predictions.add("x0")
@dataclasses.dataclass(frozen=True, kw_only=True)
class CleanPicture(Prediction):
    """The clean picture itself."""

    def at(self, level: Level) -> Translation:
        return Translation(1.0, 0.0, 1.0)


@predictions.add("v")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Velocity(Prediction):
    """v = alpha * noise - sigma * x0 (Salimans & Ho 2202.00512, appendix D)."""

    def at(self, level: Level) -> Translation:
        power = level.alpha**2 + level.sigma**2
        return Translation(1.0, level.alpha / power, -level.sigma / power)


@predictions.add("flow")
@dataclasses.dataclass(frozen=True, kw_only=True)
class FlowVelocity(Prediction):
    """noise - x0, the velocity of a rectified flow (Lipman et al. 2210.02747)."""

    def at(self, level: Level) -> Translation:
        total = level.alpha + level.sigma
        return Translation(1.0, 1 / total, -level.sigma / total)


@predictions.add("edm")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Preconditioned(Prediction):
    """Unit-variance input and target (Karras et al. 2206.00364, table 1), for x on any schedule:
    theirs is for x / alpha and sigma / alpha."""

    sigma_data: float = 0.5

    def __post_init__(self) -> None:
        require_number("prediction option sigma_data", self.sigma_data, 1e-4, 1e4)

    def at(self, level: Level) -> Translation:
        data = self.sigma_data
        total = (level.sigma**2 + (data * level.alpha) ** 2) ** 0.5
        return Translation(
            scale=1 / total,
            skip=data**2 * level.alpha / total**2,
            out=data * level.sigma / total,
        )


def prediction(name: str | Prediction) -> Prediction:
    """A Prediction from its name: ``epsilon``, ``v``, ``x0``, ``flow``, ``edm(sigma_data=0.5)``."""
    return predictions.parse(name)
