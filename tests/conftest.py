"""Small real models and exact denoisers that several tests share."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable

import pytest
import torch
from diffusers import UNet2DModel

import hasten
from hasten.adapters.families import Network
from hasten.core.level import Level
from hasten.core.model import Model

torch.set_num_threads(1 if "PYTEST_XDIST_WORKER" in os.environ else 2)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Every test draws the same numbers every time, whatever ran before it."""
    torch.manual_seed(0)


def tiny_unet(channels: int = 1, size: int = 8, labels: int | None = None, **options: object):
    """A real UNet2DModel of a few thousand parameters, the same every time."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return UNet2DModel(
            sample_size=size,
            in_channels=channels,
            out_channels=channels,
            block_out_channels=(8, 16),
            layers_per_block=1,
            down_block_types=("DownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "UpBlock2D"),
            norm_num_groups=4,
            attention_head_dim=8,
            num_class_embeds=None if labels is None else labels + 1,
            **options,
        ).eval()


@pytest.fixture
def tiny_model() -> Callable[..., Model]:
    """Makes a Model around a tiny UNet2DModel."""

    def make(path: str = "ddpm", prediction: str = "epsilon", labels: int | None = None) -> Model:
        return Model(
            net=Network(tiny_unet(labels=labels)).requires_grad_(False),
            path=hasten.path(path),
            prediction=hasten.prediction(prediction),
            shape=(1, 8, 8),
            labels=labels,
            null_label=labels,
            name="tiny",
        )

    return make


@dataclasses.dataclass(frozen=True)
class GaussianDenoiser:
    """The exact denoiser of data ~ Normal(mean, std^2): x0 = E[x0 | x]."""

    mean: float = 0.3
    std: float = 0.5

    def __call__(self, x: torch.Tensor, level: Level) -> torch.Tensor:
        power = (level.alpha * self.std) ** 2 + level.sigma**2
        gain = level.alpha * self.std**2 / power
        return self.mean + gain * (x - level.alpha * self.mean)


@pytest.fixture
def gaussian() -> GaussianDenoiser:
    return GaussianDenoiser()
