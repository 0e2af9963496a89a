"""Train a network to tell the noise from the picture: algorithm 1 of DDPM, for any path and
prediction (Ho et al. 2006.11239; Karras et al. 2206.00364 for ``edm``)."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import torch

from hasten.core.level import Discrete, Level, Path
from hasten.core.prediction import Prediction
from hasten.learning.recipe import Times


@dataclasses.dataclass(frozen=True, kw_only=True)
class NoisePrediction:
    """Draw times and noise, mix, ask the network, compare with what it should have said."""

    path: Path
    prediction: Prediction
    times: Times = dataclasses.field(default_factory=Times)
    null_label: int | None = None
    label_dropout: float = 0.0

    def loss(
        self,
        net: torch.nn.Module,
        x0: torch.Tensor,
        labels: torch.Tensor | None,
        generator: torch.Generator,
    ) -> torch.Tensor:
        """Mean squared error of the network's answer; x0 is (n, c, h, w) in the network's space."""
        noise = torch.randn(x0.shape, generator=generator, device=x0.device)
        numbers = self._numbers(len(x0), generator).to(x0.device)
        t, alpha, sigma, scale, of_x0, of_noise = numbers.T
        alpha, sigma, scale, of_x0, of_noise = (
            column.view(-1, 1, 1, 1) for column in (alpha, sigma, scale, of_x0, of_noise)
        )
        if labels is not None and self.null_label is not None:
            drop = torch.rand(len(x0), generator=generator, device=x0.device) < self.label_dropout
            labels = labels.masked_fill(drop, self.null_label)
        answer = net(scale * (alpha * x0 + sigma * noise), t, labels).float()
        target = of_x0 * x0 + of_noise * noise
        return torch.nn.functional.mse_loss(answer, target)

    def _numbers(self, n: int, generator: torch.Generator) -> torch.Tensor:
        """float32 (n, 6): time, alpha, sigma, the network's input scale, and its target's parts."""
        rows = []
        for position in self._positions(n, generator):
            level: Level = self.path.at(position)
            here = self.prediction.at(level)
            rows.append((level.t, level.alpha, level.sigma, here.scale, *here.target(level)))
        return torch.tensor(rows, dtype=torch.float32)

    def _positions(self, n: int, generator: torch.Generator) -> np.ndarray:
        device = generator.device
        if self.times.law == "lognormal":
            normal = torch.randn(n, generator=generator, device=device).double().cpu().numpy()
            log_ratio = self.times.mean + self.times.std * normal
            low, high = self.path.at(self.path.low), self.path.at(self.path.noisy)
            top = math.inf if high.alpha == 0 else math.log(high.ratio)
            log_ratio = np.clip(log_ratio, math.log(low.ratio), top)
            return np.array([self.path.position(-value) for value in log_ratio])
        if isinstance(self.path, Discrete):
            count = len(self.path.alphas_cumprod)
            return torch.randint(count, (n,), generator=generator, device=device).cpu().numpy()
        uniform = torch.rand(n, generator=generator, device=device).double().cpu().numpy()
        return self.path.low + (self.path.noisy - self.path.low) * uniform
