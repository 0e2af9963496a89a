"""Small real models and exact denoisers that several tests share."""

from __future__ import annotations

import dataclasses
import io
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from diffusers import DiTTransformer2DModel, UNet2DModel
from PIL import Image

import hasten
from hasten.adapters.families import Network
from hasten.adapters.folder import save_folder
from hasten.cli import _status
from hasten.core.call import Answer, Call
from hasten.core.level import Level
from hasten.core.model import Model
from hasten.core.noise_schedule import ddpm_schedule
from hasten.core.prediction import prediction
from hasten.core.session import Session

THREADS = 1 if "PYTEST_XDIST_WORKER" in os.environ else 2
torch.set_num_threads(THREADS)  # for what modules and fixtures run before their first test


@pytest.fixture(autouse=True)
def _as_it_began() -> None:
    """Every test draws the same numbers with as many threads, whatever ran before it."""
    torch.manual_seed(0)
    torch.set_num_threads(THREADS)


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


def make_tiny_model(
    schedule: str = "ddpm", prediction: str = "epsilon", labels: int | None = None
) -> Model:
    """A Model around a tiny UNet2DModel."""
    return Model(
        net=Network(tiny_unet(labels=labels)).requires_grad_(False),
        schedule=hasten.schedule(schedule),
        prediction=hasten.prediction(prediction),
        shape=(1, 8, 8),
        labels=labels,
        null_label=labels,
        name="tiny",
    )


@pytest.fixture
def tiny_model() -> Callable[..., Model]:
    """Makes a Model around a tiny UNet2DModel."""
    return make_tiny_model


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


def tiny_attentive(seed: int = 0, widths: tuple[int, int] = (8, 8), head: int = 4) -> Network:
    """A conditional U-Net with attention and dropout, the same every time for a seed."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return Network(
            UNet2DModel(
                sample_size=8,
                in_channels=1,
                out_channels=1,
                block_out_channels=widths,
                layers_per_block=1,
                down_block_types=("DownBlock2D", "AttnDownBlock2D"),
                up_block_types=("AttnUpBlock2D", "UpBlock2D"),
                norm_num_groups=4,
                attention_head_dim=head,
                num_class_embeds=3,
                dropout=0.1,
            )
        )


def tiny_dit(layers: int = 4) -> DiTTransformer2DModel:
    torch.manual_seed(0)
    net = DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=1,
        num_layers=layers,
        sample_size=8,
        patch_size=2,
        num_embeds_ada_norm=3,
        norm_num_groups=4,
    ).eval()
    for value in net.parameters():  # the gates of a new DiT are zero
        torch.nn.init.normal_(value, std=0.2)
    return net


def dit_model(layers: int = 4) -> Model:
    return Model(
        net=Network(tiny_dit(layers)).requires_grad_(False),
        schedule=hasten.schedule("ddpm"),
        prediction=hasten.prediction("epsilon"),
        shape=(1, 8, 8),
        labels=3,
        null_label=3,
        name="dit",
    )


class ByFunction:
    """A Denoiser by ``function(x, level)``, which gives x0 or (x0, variance).

    ``rounds``: how many calls were answered together, one entry each time.
    """

    def __init__(self, function: Callable[[torch.Tensor, Level], Any]) -> None:
        self.function = function
        self.rounds: list[int] = []

    def __call__(self, calls: Sequence[Call]) -> list[Answer]:
        self.rounds.append(len(calls))
        return [self._answer(call) for call in calls]

    def _answer(self, call: Call) -> Answer:
        if call.level is None:
            rows = zip(call.x.split(1), call.levels, strict=True)
            return Answer(x0=torch.cat([self.function(x, level) for x, level in rows]))
        answer = self.function(call.x, call.level)
        x0, variance = answer if isinstance(answer, tuple) else (answer, None)
        return Answer(x0=x0, variance=variance)


def no_noise(rows: Sequence[int] | None = None) -> torch.Tensor:
    """For runs that draw none on the way."""
    raise AssertionError("noise was drawn")


def session_of(function: Callable[..., Any], fresh: Callable[..., Any] = no_noise) -> Session:
    """A run whose evaluations ``function(x, level)`` answers."""
    return Session(ByFunction(function), fresh)


@pytest.fixture(scope="session")
def teacher(tmp_path_factory) -> Model:
    """A tiny conditional DDPM in a folder of its own."""
    net = tiny_attentive().eval().requires_grad_(False)
    kind = {"schedule": ddpm_schedule(), "prediction": prediction("epsilon"), "shape": (1, 8, 8)}
    model = Model(net=net, labels=2, null_label=2, name="tiny", **kind)
    folder = tmp_path_factory.mktemp("models") / "teacher"
    save_folder(model, folder)
    return hasten.load(folder)


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="session")
def parquet(tmp_path_factory) -> Path:
    """Forty 8x8 pictures of two kinds: bright on the left, bright at the top."""
    rng = np.random.default_rng(0)
    rows = []
    for index in range(40):
        pixels = rng.integers(0, 80, (8, 8), dtype=np.uint8)
        view = pixels if index % 2 else pixels.T
        view[:, :3] += 150
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG")
        rows.append({"bytes": buffer.getvalue(), "path": None})
    table = pa.table({"image": rows, "label": [index % 2 for index in range(40)]})
    file = tmp_path_factory.mktemp("data") / "tiny.parquet"
    pq.write_table(table, file)
    return file


@pytest.fixture(scope="session")
def data(parquet: Path) -> str:
    """The file of :func:`parquet`, as text."""
    return str(parquet)


@pytest.fixture
def run(capsys) -> Run:
    """``run("sample", folder, "--n", 2)`` gives the exit status, stdout and stderr."""

    def verb(*arguments: object) -> tuple[int, str, str]:
        status = _status([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return status, out, err

    return verb


@pytest.fixture
def folder(tiny_model, tmp_path) -> Path:
    """A tiny model of three classes in a folder."""
    save_folder(tiny_model(labels=3), tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture(scope="session")
def served_mnist():
    """A small model, served."""
    pytest.importorskip("fastapi")
    from served_models import served_mnist

    return served_mnist()


@pytest.fixture(scope="session")
def address(served_mnist):
    """Where it is served."""
    from served_models import serving

    with serving([served_mnist]) as where:
        yield where
