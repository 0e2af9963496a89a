"""ComfyUI's noise levels and those of hasten.

ComfyUI's x is ``x0 + sigma * noise``, or ``(1 - sigma) * x0 + sigma * noise`` for flow models;
hasten's is ``alpha * x0 + sigma * noise`` on the model's noise schedule. Levels of equal sigma /
alpha are the same level, and x differs by a factor there.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import torch

from hasten.core.errors import UserError
from hasten.core.level import Level
from hasten.core.noise_schedule import EDM, Discrete, Flow, NoiseSchedule


@dataclasses.dataclass(frozen=True)
class Levels:
    """How a model of ComfyUI was noised: ``flow`` or not, as hasten's ``schedule``."""

    schedule: NoiseSchedule
    flow: bool

    @staticmethod
    def of(sampling: Any) -> Levels:
        """What the ``model_sampling`` of a model is.

        Raises:
            UserError: it is neither sigma alone nor a flow.
        """
        kept = _share_kept(sampling)
        table = sampling.sigmas.double().cpu()
        if math.isclose(kept, 0.5, abs_tol=1e-4):
            middle = float(table[len(table) // 2 - 1])  # sigma at t = 1/2 is shift / (1 + shift)
            return Levels(Flow(shift=middle / (1 - middle)), True)
        if not math.isclose(kept, 1.0, abs_tol=1e-4):
            raise UserError(
                f"hasten knows models whose x is x0 + sigma * noise, and flows; at sigma 0.5 this "
                f"one ({type(sampling).__name__}) keeps {kept:g} of x0. Use another sampler."
            )
        last = sampling.timestep(sampling.sigmas[-1:])
        if float(last) == len(table) - 1:  # times are places in the table
            return Levels(Discrete(alphas_cumprod=tuple((1 / (1 + table**2)).tolist())), False)
        low, high = float(sampling.sigma_min), float(sampling.sigma_max)
        return Levels(EDM(sigma_min=low, sigma_max=high), False)

    def sigma(self, level: Level) -> float:
        """ComfyUI's sigma at ``level``."""
        if not self.flow:
            return level.ratio
        return level.sigma / (level.alpha + level.sigma)

    def level(self, sigma: float) -> Level:
        """The level of ComfyUI's ``sigma``."""
        if sigma <= 0:
            return self.schedule.at(self.schedule.clean)
        ratio = self.ratio(sigma)
        if math.isinf(ratio):
            return self.schedule.at(self.schedule.noisy)
        return self.schedule.at(self.schedule.position(-math.log(ratio)))

    def ratio(self, sigma: float) -> float:
        """sigma / alpha at ComfyUI's ``sigma``."""
        if not self.flow:
            return sigma
        return sigma / (1 - sigma) if sigma < 1 else math.inf

    def factor(self, level: Level) -> float:
        """ComfyUI's x over hasten's at ``level``."""
        return self.sigma(level) / level.sigma if level.sigma > 0 else 1 / level.alpha


def _share_kept(sampling: Any) -> float:
    """How much of x0 is in ComfyUI's x at sigma 0.5."""
    half, one = torch.tensor([0.5]), torch.ones(1, 1)
    return float(sampling.noise_scaling(half, torch.zeros(1, 1), one))
