"""Learn the noise schedule with the network (Variational Diffusion Models, Kingma et al.
2107.00630).

The variational bound does not depend on the shape of the schedule between its ends, but the
variance of its estimate does; so the shape is trained to make that variance small (their section
5.1 and appendix I.2), and the network by its usual loss. The ends are given.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import nn
from torch.nn.functional import mse_loss, softplus

from hasten.core.learned_schedule import LearnedSchedule
from hasten.core.level import Level
from hasten.core.prediction import Prediction
from hasten.training.columns import column
from hasten.training.labels import drop_labels
from hasten.training.objective import Batch

UNITS = 64


class MonotoneShape(nn.Module):
    """The torch twin of :class:`hasten.core.learned_schedule.LearnedSchedule`, weights positive by
    softplus.

    It begins close to a straight line with a little of every bend.
    """

    def __init__(self, ends: tuple[float, float]) -> None:
        super().__init__()
        self.ends = ends
        self.scale = nn.Parameter(torch.tensor(0.5))
        self.slope = nn.Parameter(torch.linspace(2.0, 12.0, UNITS))
        centre = torch.linspace(0.0, 1.0, UNITS)
        self.bias = nn.Parameter(-centre * softplus(self.slope.detach()))
        self.out = nn.Parameter(torch.full((UNITS,), -5.0))

    def _weights(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        return softplus(self.scale), softplus(self.slope), softplus(self.out)

    def forward(self, position: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(shape, slope of shape) at positions (n,) in [0, 1]; shape runs from 0 to 1."""
        scale, slope, out = self._weights()

        def raw(at: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            gate = torch.sigmoid(at[:, None] * slope + self.bias)
            return scale * at + gate @ out, scale + (gate * (1 - gate)) @ (out * slope)

        (first, last), _ = raw(position.new_tensor([0.0, 1.0]))
        value, rise = raw(position)
        return (value - first) / (last - first), rise / (last - first)

    def schedule(self) -> LearnedSchedule:
        """The noise schedule as it is now."""
        scale, slope, out = (value.detach().double().cpu() for value in self._weights())
        return LearnedSchedule(
            ends=self.ends,
            scale=float(scale),
            slope=tuple(slope.tolist()),
            bias=tuple(self.bias.detach().double().cpu().tolist()),
            out=tuple(out.tolist()),
        )


class WithShape(nn.Module):
    """A network and the shape of its noise schedule, as one module to train; called like the
    network."""

    def __init__(self, net: nn.Module, shape: MonotoneShape) -> None:
        super().__init__()
        self.net, self.shape = net, shape

    def forward(
        self, x: torch.Tensor, t: torch.Tensor, condition: torch.Tensor | None = None
    ) -> torch.Tensor:
        return self.net(x, t, condition)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LearnedSchedulePrediction:
    """The usual loss for the network, the bound's variance for the shape, in one backward pass."""

    prediction: Prediction
    shape: MonotoneShape
    null_label: int | None = None
    label_dropout: float = 0.0

    def loss(self, net: nn.Module, batch: Batch) -> torch.Tensor:
        """Mean squared error of the network's answer (its value), with the shape's gradient."""
        x0, noise = batch.rows, batch.randn_like(batch.rows)
        n, device = len(x0), x0.device
        # One uniform draw spread over the batch: less variance to begin with (appendix I.1).
        offset = torch.rand(1, generator=batch.generator, device=device)
        position = (offset + torch.arange(n, device=device) / n) % 1
        shape, rise = self.shape(position)
        at, slope = (value.detach().requires_grad_() for value in (shape, rise))
        level = self._level(at, x0)
        here = self.prediction.at(level)
        x = level.alpha * x0 + level.sigma * noise
        labels = drop_labels(batch.labels, self.null_label, self.label_dropout, batch.generator)
        answer = net(here.scale * x, 1000 * at.detach(), labels).float()
        of_x0, of_noise = here.target(level)
        simple = mse_loss(answer, (of_x0 * x0 + of_noise * noise).detach())
        wrong = (here.skip * x + here.out * answer - x0).square().flatten(1).mean(1)
        snr = ((level.alpha / level.sigma) ** 2).flatten()  # type: ignore[attr-defined]
        bound = 0.5 * (self.shape.ends[1] - self.shape.ends[0]) * slope * snr * wrong
        of_at, of_slope = torch.autograd.grad(bound.sum(), (at, slope), retain_graph=True)
        steer = 2 * bound.detach() * (of_at * shape + of_slope * rise)
        variance = steer.mean() / bound.detach().square().mean().clamp(min=1e-12)
        return simple + variance - variance.detach()

    def _level(self, shape: torch.Tensor, x0: torch.Tensor) -> Level:
        low, high = self.shape.ends
        gamma = column(low + (high - low) * shape, x0)
        alpha, sigma = torch.sigmoid(-gamma).sqrt(), torch.sigmoid(gamma).sqrt()
        return Level.batch(1000 * shape, alpha, sigma)
