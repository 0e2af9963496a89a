"""The networks whose features quality is measured in: small classifiers, by name.

Both take pictures (n, c, h, w) in [0, 1]; they give class scores (n, classes), ``features``
(n, ``width``), and ``maps``: what they see at each resolution, or oftener, (n, channels, h, w).
"""

from __future__ import annotations

import itertools
from typing import Literal

import torch
from torch import nn

Name = Literal["convolutions", "resnet"]


class Convolutions(nn.Module):
    """Six convolutions, and 64 features from 2x2 positions: enough for digits."""

    width = 64

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        widths = (channels, 32, 64, 96)
        blocks: list[nn.Module] = []
        for inside, outside in itertools.pairwise(widths):
            blocks += [
                nn.Conv2d(inside, outside, 3, padding=1),
                nn.BatchNorm2d(outside),
                nn.ReLU(),
                nn.Conv2d(outside, outside, 3, stride=2, padding=1),
                nn.BatchNorm2d(outside),
                nn.ReLU(),
            ]
        self.body = nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(2), nn.Flatten())
        self.neck = nn.Linear(4 * widths[-1], self.width)
        self.head = nn.Linear(self.width, classes)

    def features(self, pictures: torch.Tensor) -> torch.Tensor:
        return self.neck(self.body(pictures * 2 - 1))

    def maps(self, pictures: torch.Tensor) -> list[torch.Tensor]:
        return _seen(self.body, pictures, nn.ReLU)

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.features(pictures)))


class ResNet(nn.Module):
    """A residual network of ten convolutions (He et al. 1512.03385), for natural pictures; its 256
    features are averaged over positions, as Inception's are for FID."""

    width = 256

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        widths = (32, 64, 128, self.width)
        stages = [_Stage(inside, outside) for inside, outside in itertools.pairwise(widths)]
        self.body = nn.Sequential(*_convolution(channels, widths[0]), *stages)
        self.head = nn.Linear(self.width, classes)

    def features(self, pictures: torch.Tensor) -> torch.Tensor:
        return self.body(pictures * 2 - 1).mean((2, 3))

    def maps(self, pictures: torch.Tensor) -> list[torch.Tensor]:
        return _seen(self.body, pictures, _Stage)

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        return self.head(self.features(pictures))


class _Stage(nn.Module):
    """Half the size, another width, and a residual block of two convolutions."""

    def __init__(self, inside: int, outside: int) -> None:
        super().__init__()
        self.down = nn.Sequential(*_convolution(inside, outside, nn.MaxPool2d(2)))
        self.block = nn.Sequential(*_convolution(outside, outside), *_convolution(outside, outside))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.down(x)
        return x + self.block(x)


def _seen(
    body: nn.Sequential, pictures: torch.Tensor, after: type[nn.Module]
) -> list[torch.Tensor]:
    """What ``body`` gives after each layer of the kind ``after``."""
    x, out = pictures * 2 - 1, []
    for layer in body:
        x = layer(x)
        if isinstance(layer, after):
            out.append(x)
    return out


def _convolution(inside: int, outside: int, *pool: nn.Module) -> tuple[nn.Module, ...]:
    convolution = nn.Conv2d(inside, outside, 3, padding=1, bias=False)
    return convolution, *pool, nn.BatchNorm2d(outside), nn.ReLU()


NETWORKS: dict[Name, type[Convolutions | ResNet]] = {
    "convolutions": Convolutions,
    "resnet": ResNet,
}
