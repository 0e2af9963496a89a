"""A small variational autoencoder of a model's latents, for a start (1312.6114, 2006.13202)."""

from __future__ import annotations

import dataclasses
import math

import torch
import torch.nn.functional as F
from torch import nn

from hasten.core.codec import Shape
from hasten.starts.decoder import Decoder, halvings
from hasten.starts.files import Tensors
from hasten.starts.vae import NET
from hasten.training.objective import Batch

JITTER = 1e-4  # added to the covariance of codes, so that it has a root


class AutoEncoder(nn.Module):
    """An encoder beside the decoder that a start keeps, both told the label where there is one."""

    def __init__(self, shape: Shape, code: int, width: int, labels: int | None) -> None:
        super().__init__()
        self.code, count = code, halvings(shape)
        self.label = None if labels is None else nn.Embedding(labels, shape[0])
        layers: list[nn.Module] = []
        channels = shape[0] if labels is None else 2 * shape[0]
        for _ in range(count):
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.GELU()]
            layers += [nn.Conv2d(width, width, 3, stride=2, padding=1), nn.GELU()]
            channels = width
        size = width * (shape[1] >> count) * (shape[2] >> count)
        self.encoder = nn.Sequential(*layers, nn.Flatten(), nn.Linear(size, 2 * code))
        self.decoder = Decoder(shape, code, width, labels)

    def encode(
        self, x0: torch.Tensor, labels: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and log-variance (n, code) of the codes of ``x0``."""
        if self.label is not None:
            plane = self.label(labels)[:, :, None, None].expand(-1, -1, *x0.shape[2:])
            x0 = torch.cat([x0, plane], dim=1)
        mean, variance = self.encoder(x0).chunk(2, dim=1)
        return mean, variance.clamp(-12, 6)

    def forward(
        self, x0: torch.Tensor, draw: torch.Tensor, labels: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """``x0`` again from a code drawn by ``draw`` (n, code), and the code's mean and
        log-variance."""
        mean, variance = self.encode(x0, labels)
        return self.decoder(mean + (0.5 * variance).exp() * draw, labels), mean, variance


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evidence:
    """The evidence lower bound with the decoder's variance at its optimum: per picture
    ``d / 2 log(mean squared error) + KL`` (2006.13202, eq. 5), so that no weight has to be chosen.
    """

    code: int

    def loss(self, net: nn.Module, batch: Batch) -> torch.Tensor:
        x0 = batch.rows
        draw = torch.randn(len(x0), self.code, generator=batch.generator, device=x0.device)
        again, mean, variance = net(x0, draw, batch.labels)
        wrong = F.mse_loss(again.float(), x0)
        apart = 0.5 * (mean.square() + variance.exp() - variance - 1).sum(1).mean()
        d = math.prod(x0.shape[1:])
        return (0.5 * d * wrong.log() + apart.float()) / d


@torch.inference_mode()
def as_start(net: AutoEncoder, x0: torch.Tensor, labels: torch.Tensor | None) -> Tensors:
    """What a start's file holds of a trained ``net``: the decoder in half precision, the law of the
    codes of ``x0`` (n, c, h, w) within each label, and the variance the decoder leaves."""
    of = torch.zeros(len(x0), dtype=torch.long) if labels is None else labels
    codes, left = torch.empty(len(x0), net.code), torch.zeros(x0.shape[1:], dtype=torch.float64)
    draws = torch.Generator().manual_seed(0)
    for part in torch.arange(len(x0)).split(500):
        part_labels = None if labels is None else labels[part]
        mean, variance = net.encode(x0[part], part_labels)
        codes[part] = mean + (0.5 * variance).exp() * torch.randn(mean.shape, generator=draws)
        left += (net.decoder(codes[part], part_labels) - x0[part]).double().square().sum(0)
    means, roots = [], []
    for label in range(int(of.max()) + 1):
        mine = codes[of == label].double()
        around = mine - mine.mean(0)
        covariance = around.T @ around / len(mine) + JITTER * torch.eye(net.code)
        means.append(mine.mean(0).float())
        roots.append(torch.linalg.cholesky(covariance).float())
    weights = {f"{NET}{name}": value.half() for name, value in net.decoder.state_dict().items()}
    return {
        **weights,
        "code_mean": torch.stack(means),
        "code_root": torch.stack(roots),
        "share": torch.bincount(of).float() / len(of),
        "rest": (left / len(x0)).float(),
    }
