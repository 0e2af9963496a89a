"""Start from the analytic Gaussian (free): the exact solution of a Gaussian model."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch

from hasten.core.errors import require
from hasten.core.model import Model
from hasten.core.start import Begin, Latents, starts
from hasten.starts.early import Early
from hasten.starts.files import FIELD, FromFile
from hasten.starts.normals import NAMES, Normals


@starts.add("gaussian")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Gaussian(FromFile, Early):
    """While noise is strong, a model's pictures are as those of a normal distribution with the
    mean and covariance of its data; so the walk down to ``ratio`` is known in closed form.

    ``file`` holds a distribution for each label and one of all pictures, which stands for no label.
    """

    names = NAMES

    def prepare(self, model: Model, other: Callable[[Any], Latents]) -> Begin:
        held = self.learned()
        held.facts.check(model)
        normals = Normals.of(held.tensors, model)
        top, every = model.path.at(model.path.noisy), model.labels or 0
        require(len(normals.mean) == every + 1, f"{FIELD} lacks a label; learn it again.")

        def begin(noise: Any, level: Any, cond: Any) -> Any:
            which = torch.full((len(noise),), every, device=noise.device)
            if cond is not None:
                none = -1 if model.null_label is None else model.null_label
                which = torch.where(cond == none, which, cond)
            x = normals.flow(noise.flatten(1) * top.spread, which, top, level)
            return x.view(noise.shape)

        return begin
