"""The probability-flow ODE of a model as a continuous normalizing flow.

In y = x / alpha along half log-SNR l it reads ``dy = (x0 - y) dl`` (2011.13456, eq. 13),
so from the schedule's lowest level up to its noisiest one (section 4.3 and appendix D.2)

    log p(y_low) = log p(y_high) + integral from l_low to l_high of (tr(d x0 / d y) - d) dl

with a normal distribution at the noisy end, where the sampler starts. The trace is estimated by one
or more random probes v as v . (d x0 / d y) v (Skilling 1989, Hutchinson 1990), through the gradient
of the network.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch

from hasten.core.call import Call, Denoiser
from hasten.core.condition import Condition
from hasten.core.level import Level
from hasten.core.model import Model
from hasten.grids.ratios import ends


class Flow:
    """The probability-flow ODE of a model with the change of volume along it."""

    def __init__(self, model: Model, denoiser: Denoiser, probes: int, probe: str) -> None:
        self.model, self.denoiser, self.probes, self.probe = model, denoiser, probes, probe
        high, _ = ends(model.schedule, None, None)
        self.low = model.schedule.at(model.schedule.low)
        self.high = self._at(-math.log(high))
        self.wide = torch.float32 if model.device.type == "mps" else torch.float64

    def draws(self, streams: Sequence[torch.Generator]) -> torch.Tensor:
        """Probes (probes, n, c, h, w) of mean 0 and covariance 1, float32."""
        out = torch.empty(self.probes, len(streams), *self.model.shape)
        for column, stream in zip(out.unbind(1), streams, strict=True):
            column.normal_(generator=stream)
        return (out.sign() if self.probe == "rademacher" else out).to(self.model.device)

    def bits(
        self, x: torch.Tensor, condition: Condition, draws: torch.Tensor, steps: int
    ) -> torch.Tensor:
        """Bits a dimension (n,) of dequantised pictures ``x`` in [0, 1)."""
        y = self.model.codec.encode(x).to(self.model.device, self.wide)
        size, volume = y[0].numel(), torch.zeros(len(y), dtype=self.wide, device=y.device)
        places = np.linspace(self.low.half_log_snr, self.high.half_log_snr, steps + 1)
        for here, there in pairwise(places.tolist()):
            y, volume = self._step(y, volume, (here, there), condition, draws)
        spread = self.high.spread / self.high.alpha
        log_p = -0.5 * (y / spread).square().flatten(1).sum(dim=1)
        log_p = log_p - size * (0.5 * math.log(2 * math.pi) + math.log(spread)) + volume
        # 256 integers on [-1, 1]: a density there is 128 times smaller than one on the integers.
        return (7.0 - log_p / (size * math.log(2.0))).cpu()

    def _step(
        self,
        y: torch.Tensor,
        volume: torch.Tensor,
        ends: tuple[float, float],
        condition: Condition,
        draws: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """One step of classical Runge-Kutta of the flow and its volume."""
        here, there = ends
        h, middle = there - here, 0.5 * (here + there)
        a, p = self._rate(y, here, condition, draws)
        b, q = self._rate(y + 0.5 * h * a, middle, condition, draws)
        c, r = self._rate(y + 0.5 * h * b, middle, condition, draws)
        d, s = self._rate(y + h * c, there, condition, draws)
        y = y + h / 6 * (a + 2 * b + 2 * c + d)
        return y, volume + h / 6 * (p + 2 * q + 2 * r + s)

    def _rate(
        self, y: torch.Tensor, place: float, condition: Condition, draws: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(dy/dl, its divergence (n,)) at half log-SNR ``place``."""
        level = self._at(place)
        with torch.enable_grad():
            x = (y * level.alpha).float().requires_grad_()
            call = Call(x=x, levels=(level,) * len(x), condition=condition)
            x0 = self.denoiser([call])[0].x0
            trace = torch.zeros(len(y), dtype=self.wide, device=y.device)
            for k, probe in enumerate(draws):
                last = k == len(draws) - 1
                (pulled,) = torch.autograd.grad(x0, x, probe, retain_graph=not last)
                trace += (pulled * probe).flatten(1).sum(dim=1).to(self.wide)
        trace = trace * (level.alpha / len(draws))
        return x0.detach().to(self.wide) - y, trace - y[0].numel()

    def _at(self, place: float) -> Level:
        schedule = self.model.schedule
        return schedule.at(min(max(schedule.position(place), schedule.low), schedule.noisy))
