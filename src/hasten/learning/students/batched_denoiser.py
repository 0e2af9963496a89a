"""Denoising a batch whose samples are each at a level of their own."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import torch

from hasten.core.condition import NULL, Condition
from hasten.core.level import Array, Level
from hasten.core.model import Model
from hasten.core.noise_schedule import NoiseSchedule
from hasten.training.columns import columns


@dataclasses.dataclass(frozen=True)
class Levels:
    """A noise level for each sample: float64 (n,) arrays of times, alphas and sigmas."""

    t: Array
    alpha: Array
    sigma: Array

    @staticmethod
    def at_positions(schedule: NoiseSchedule, positions: Array) -> Levels:
        """The levels at ``positions`` (n,) of ``schedule``."""
        with np.errstate(divide="ignore"):
            return Levels(*schedule.curve(np.asarray(positions, np.float64)))

    @staticmethod
    def at_ratios(schedule: NoiseSchedule, ratios: Array) -> Levels:
        """The levels whose sigma / alpha are ``ratios`` (n,); 0 is a clean picture."""
        places = [
            schedule.clean if s == 0 else schedule.position(-math.log(s)) for s in ratios.tolist()
        ]
        return Levels.at_positions(schedule, np.array(places))

    @staticmethod
    def same(level: Level, n: int) -> Levels:
        """One level for ``n`` pictures."""
        return Levels(*(np.full(n, value) for value in (level.t, level.alpha, level.sigma)))

    @property
    def ratio(self) -> Array:
        return self.sigma / self.alpha

    def noised(self, x0: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """alpha x0 + sigma noise."""
        alpha, sigma = columns(x0, self.alpha, self.sigma)
        return alpha * x0 + sigma * noise

    def moved(self, x: torch.Tensor, x0: torch.Tensor, to: Levels) -> torch.Tensor:
        """``x`` carried to other levels along the straight line that ``x0`` gives: a DDIM step
        (Song et al. 2010.02502, eq. 12)."""
        share = to.sigma / self.sigma
        keep, add = columns(x, share, to.alpha - share * self.alpha)
        return keep * x + add * x0


def denoised(
    model: Model,
    net: torch.nn.Module,
    x: torch.Tensor,
    at: Levels,
    condition: Condition | torch.Tensor | None,
) -> torch.Tensor:
    """x0 (n, *shape), float32, that ``net``, a network of ``model``'s kind, predicts for ``x``."""
    here = model.prediction.at(Level.batch(at.t, at.alpha, at.sigma))
    t, scale, skip, out = columns(x, at.t, here.scale, here.skip, here.out)
    answer = net(scale * x, t.flatten(), condition).float()
    if model.learned_variance:
        answer = answer.chunk(2, dim=1)[0]
    return skip * x + out * answer


@dataclasses.dataclass(frozen=True, kw_only=True)
class Teacher:
    """A frozen model as a denoiser, with classifier-free guidance where ``scale`` is not 1
    (2207.12598)."""

    model: Model
    scale: float = 1.0

    @torch.no_grad()
    def __call__(self, x: torch.Tensor, at: Levels, condition: torch.Tensor | None) -> torch.Tensor:
        conditional = denoised(self.model, self.model.net, x, at, condition)
        if self.scale == 1.0 or condition is None or self.model.null_label is None:
            return conditional
        null = Condition.labels_of(condition, self.model.null_label).branch(NULL)
        return torch.lerp(
            denoised(self.model, self.model.net, x, at, null), conditional, self.scale
        )


def draw_ratios(
    schedule: NoiseSchedule, mean: float, std: float, n: int, generator: torch.Generator
) -> Array:
    """``n`` of sigma / alpha with ln ~ Normal(mean, std), within the range of ``schedule``; drawn
    on the CPU, where float64 numbers are computed from them."""
    if generator.device.type != "cpu":
        generator = torch.Generator().manual_seed(generator.initial_seed())
    normal = torch.randn(n, generator=generator).double().numpy()
    return clamped(schedule, np.exp(mean + std * normal))


def clamped(schedule: NoiseSchedule, values: Array) -> Array:
    """sigma / alpha clamped between those of the cleanest and the noisiest level of
    ``schedule``."""
    top = schedule.at(schedule.noisy).ratio
    return np.clip(values, schedule.at(schedule.low).ratio, min(top, 1e4))
