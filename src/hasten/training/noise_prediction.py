"""Train a network to tell the noise from the picture: algorithm 1 of DDPM, for any path and
prediction (Ho et al. 2006.11239; Karras et al. 2206.00364 for ``edm``)."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import torch

from hasten.core.level import Array, Level
from hasten.core.noise_schedule import Discrete, NoiseSchedule
from hasten.core.prediction import Prediction
from hasten.training.objective import Batch
from hasten.training.recipe import Times


@dataclasses.dataclass(frozen=True, kw_only=True)
class NoisePrediction:
    """Draw times and noise, mix, ask the network, compare with what it should have said."""

    schedule: NoiseSchedule
    prediction: Prediction
    times: Times = dataclasses.field(default_factory=Times)
    null_label: int | None = None
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


def columns(x0: torch.Tensor, *values: Array | float) -> list[torch.Tensor]:
    """A number for each picture, or one for all, as float32 (n, 1, 1, 1) on the device of x0."""
    rows = [np.broadcast_to(np.asarray(value, np.float32), len(x0)) for value in values]
    together = torch.from_numpy(np.stack(rows)).to(x0.device, non_blocking=True)
    return [row.view(-1, 1, 1, 1) for row in together]


def drop_labels(
    labels: torch.Tensor | None, null: int | None, share: float, generator: torch.Generator
) -> torch.Tensor | None:
    """Labels with a ``share`` of them replaced by ``null`` (Ho & Salimans 2207.12598)."""
    if labels is None or null is None:
        return labels
    drop = torch.rand(len(labels), generator=generator, device=labels.device) < share
    return labels.masked_fill(drop, null)


def draw_positions(
    schedule: NoiseSchedule, times: Times, n: int, generator: torch.Generator
) -> Array:
    """``n`` positions on ``path`` by the law of ``times``, drawn on the CPU: float64 numbers are
    computed from them there, and fetching them from a device would wait for it."""
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
