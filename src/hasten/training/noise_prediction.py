"""Train a network to predict the noise, or what else its prediction is: algorithm 1 of DDPM, for
any noise schedule (Ho et al. 2006.11239; Karras et al. 2206.00364 for ``edm``)."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import torch

from hasten.core.level import Array, Level
from hasten.core.noise_schedule import Discrete, NoiseSchedule
from hasten.core.prediction import Prediction
from hasten.training.columns import columns
from hasten.training.labels import drop_labels
from hasten.training.objective import Batch
from hasten.training.recipe import Times


@dataclasses.dataclass(frozen=True, kw_only=True)
class NoisePrediction:
    """Draw times and noise, mix, evaluate the network, compare with what it should predict."""

    schedule: NoiseSchedule
    prediction: Prediction
    times: Times = dataclasses.field(default_factory=Times)
    null_label: int | torch.Tensor | None = None
    label_dropout: float = 0.0

    def loss(self, net: torch.nn.Module, batch: Batch) -> torch.Tensor:
        """Mean squared error of the network's answer."""
        x0, noise = batch.rows, batch.randn_like(batch.rows)
        positions = draw_positions(self.schedule, self.times, len(x0), batch.generator)
        level = Level.batch(*self.schedule.curve(positions))
        here = self.prediction.at(level)
        t, alpha, sigma, scale, of_x0, of_noise = columns(
            x0, level.t, level.alpha, level.sigma, here.scale, *here.target(level)
        )
        labels = drop_labels(batch.labels, self.null_label, self.label_dropout, batch.generator)
        answer = net(scale * (alpha * x0 + sigma * noise), t.flatten(), labels).float()
        return torch.nn.functional.mse_loss(answer, of_x0 * x0 + of_noise * noise)


def draw_positions(
    schedule: NoiseSchedule, times: Times, n: int, generator: torch.Generator
) -> Array:
    """``n`` positions on ``schedule`` by the law of ``times``, drawn on the CPU: float64 numbers
    are computed from them there, and fetching them from a device would wait for it."""
    if generator.device.type != "cpu":
        generator = torch.Generator().manual_seed(generator.initial_seed())
    if times.law == "lognormal":
        normal = torch.randn(n, generator=generator).double().numpy()
        low, high = schedule.at(schedule.low).ratio, schedule.at(schedule.noisy).ratio
        top = math.log(high) if math.isfinite(high) else math.inf
        log_ratio = np.clip(times.mean + times.std * normal, math.log(low), top)
        return np.array([schedule.position(-value) for value in log_ratio])
    if isinstance(schedule, Discrete):
        count = len(schedule.alphas_cumprod)
        whole = torch.randint(count, (n,), generator=generator)
        return whole.double().numpy()
    uniform = torch.rand(n, generator=generator).double().numpy()
    return schedule.low + (schedule.noisy - schedule.low) * uniform
