"""Start from the analytic Gaussian (free): the exact solution of a Gaussian model."""

from __future__ import annotations

import dataclasses
import functools

import torch

from hasten.core.condition import Condition
from hasten.core.errors import require
from hasten.core.level import Level
from hasten.core.model import Model
from hasten.core.start import Begin, LatentsOf, starts
from hasten.starts.early import Early
from hasten.starts.files import FIELD, FromFile
from hasten.starts.normals import NAMES, Drawn, Normals


@starts.add("gaussian")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Gaussian(FromFile, Early):
    """While noise is strong, a model's pictures are as those of a normal distribution with the
    mean and covariance of its data; so the walk down to ``ratio`` is known in closed form.

    ``file`` holds a distribution for each label and one of all pictures, which stands for no label.
    """

    names = NAMES

    def prepare(self, model: Model, other: LatentsOf) -> Begin:
        drawn = functools.cache(functools.partial(self.drawn, model))
        drawn(model.schedule.at(self.top(model.schedule)))  # refuses now what does not fit

        def begin(noise: torch.Tensor, level: Level, condition: Condition) -> torch.Tensor:
            return drawn(level)(
                noise, torch.zeros(len(noise), device=noise.device), condition.labels
            )

        return begin

    def drawn(self, model: Model, level: Level) -> Drawn:
        file = self.learned()
        file.facts.check(model)
        normals = Normals.of(file.tensors, model)
        count = len(normals.mean)
        require(count == (model.labels or 0) + 1, f"{FIELD} lacks a label; learn it again.")
        shares = torch.eye(count, device=model.device)
        return Drawn(
            normals, shares, model.null_label, model.schedule.at(model.schedule.noisy), level
        )
