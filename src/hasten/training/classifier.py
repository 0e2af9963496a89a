"""Train the classifier whose features measure quality, and take their statistics."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import pydantic
import torch
from accelerate import PartialState
from safetensors.torch import save_file
from torch.optim.swa_utils import update_bn

from hasten.core.errors import require
from hasten.core.files import new_folder, require_replaceable
from hasten.core.random_streams import StepStream, generator
from hasten.core.transfer import sent
from hasten.data.rows import evenly_spread
from hasten.measuring.classifiers import NETWORKS, Convolutions, Name, ResNet
from hasten.measuring.frechet import statistics
from hasten.training.budget import Deadline
from hasten.training.data import pictures_of
from hasten.training.loop import Training
from hasten.training.objective import Batch, PictureRows, PictureSource
from hasten.training.order import order
from hasten.training.recipe import Data, Run

SAMPLE = 10_000  # features that are stored one by one
NORMALIZED_OVER = 10_000  # pictures that the statistics of batch normalization are taken over
SMOOTHING = 0.1  # of the labels


class ClassifierRecipe(Run):
    """A classifier, and the statistics of its features over the data.

    Attributes:
        objective: always classifier.
        data: the pictures to train on, with their labels.
        test: the pictures to test on, with their labels.
        network: convolutions, with 64 features; or resnet, with 256, for natural pictures.
        shift: up to how many pixels a picture is shifted, up or down and left or right.
        over: the pictures whose features generated ones are held against; the data by default.
    """

    objective: Literal["classifier"]
    data: Data
    test: Data
    network: Name = "convolutions"
    shift: Annotated[int, pydantic.Field(ge=0)] = 2
    over: Data | None = None

    @classmethod
    def takes(cls, objective: object) -> bool:
        return objective == "classifier"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Augmented(PictureRows):
    """Pictures in [0, 1], shifted at random."""

    shift: int

    def at(self, index: np.ndarray, key: tuple[int, ...], device: torch.device) -> torch.Tensor:
        return shifted(super().at(index, key, device), self.shift, key)


def shifted(pictures: torch.Tensor, most: int, key: tuple[int, ...]) -> torch.Tensor:
    """``pictures`` (n, c, h, w), each shifted by up to ``most`` pixels in both directions; what
    comes in at an edge is what lies next to it, mirrored."""
    n, _, height, width = pictures.shape
    device, draws = pictures.device, generator(*key, StepStream.SHIFTS)
    top, left = sent(torch.randint(2 * most + 1, (2, n, 1), generator=draws), device)
    rows = (top + torch.arange(height, device=device))[:, None, :, None]
    columns = (left + torch.arange(width, device=device))[:, None, None, :]
    picture = torch.arange(n, device=device)[:, None, None, None]
    channel = torch.arange(pictures.shape[1], device=device)[:, None, None]
    padded = torch.nn.functional.pad(pictures, [most] * 4, mode="reflect")
    return padded[picture, channel, rows, columns]


@dataclasses.dataclass(frozen=True)
class Classification:
    """Cross-entropy with smoothed labels (Szegedy et al. 1512.00567, section 7)."""

    def loss(self, net: torch.nn.Module, batch: Batch) -> torch.Tensor:
        assert batch.labels is not None
        scores = net(batch.rows).float()
        return torch.nn.functional.cross_entropy(scores, batch.labels, label_smoothing=SMOOTHING)


def train_classifier(
    recipe: ClassifierRecipe, out: Path, *, deadline: Deadline | None = None, quiet: bool = False
) -> Path:
    """Train, or go on with the run in ``out``; returns ``out``/features.

    ``out``/features gets ``classifier.safetensors``, ``statistics.safetensors`` (mean and
    covariance of the features of the train pictures, or of those of ``over``, and up to 10,000 of
    them, evenly spread, in float16) and ``features.json``.

    Raises:
        UserError: data without labels, or a run of another recipe in ``out``.
    """
    train, test = pictures_of(recipe.data), pictures_of(recipe.test)
    require(
        train.labels is not None and test.labels is not None,
        "recipe fields 'data.label' and 'test.label' are needed: a classifier needs labels.",
    )
    assert train.labels is not None
    require_replaceable(out / "features")
    if recipe.over is not None:
        pictures_of(recipe.over)  # refuses what cannot be read before anything is trained
    classes = int(train.labels.max()) + 1
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(recipe.seed)
        net = NETWORKS[recipe.network](train.shape[0], classes)
    rows = Augmented(pictures=train, flip=recipe.data.flip, shift=recipe.shift)
    training = Training(
        recipe=recipe,
        objective=Classification(),
        net=net,
        rows=rows,
        run=out / "checkpoints",
        deadline=deadline,
        quiet=quiet,
    )
    training.fit_().put_(net)
    if PartialState().is_main_process:
        _normalize_(net, rows, recipe)
        facts = {"network": recipe.network, "channels": train.shape[0], "classes": classes}
        over = train if recipe.over is None else pictures_of(recipe.over)
        facts |= {"count": len(over), "pictures_seen": training.seen}
        _write(net.eval(), over, test, facts, out / "features")
    PartialState().wait_for_everyone()
    return out / "features"


def _normalize_(net: torch.nn.Module, rows: Augmented, recipe: ClassifierRecipe) -> None:
    """Take the statistics of batch normalization with the averaged weights, over many batches;
    what the loop leaves are those of the last weights."""
    batch, device = recipe.optimizer.batch, next(net.parameters()).device
    every = [
        rows.at(order(recipe.seed, step, batch, len(rows)), (recipe.seed, step), device)
        for step in range(-(-min(NORMALIZED_OVER, len(rows)) // batch))
    ]
    with torch.inference_mode():
        update_bn(every, net.train())


def _write(
    net: Convolutions | ResNet,
    over: PictureSource,
    test: PictureSource,
    facts: dict[str, object],
    out: Path,
) -> None:
    assert test.labels is not None
    device = next(net.parameters()).device
    features = _each(over, net.features, device)
    mean, covariance = statistics(features)
    sample = features[torch.from_numpy(evenly_spread(len(features), SAMPLE))].half()
    accuracy = float((_each(test, net, device).argmax(1) == test.labels).double().mean())
    facts |= {"accuracy": accuracy, "test_pictures": len(test)}
    with new_folder(out) as folder:
        weights = {name: value.contiguous().cpu() for name, value in net.state_dict().items()}
        save_file(weights, str(folder / "classifier.safetensors"))
        tensors = {"mean": mean, "covariance": covariance, "sample": sample}
        save_file(tensors, str(folder / "statistics.safetensors"))
        text = json.dumps(facts, indent=1)
        (folder / "features.json").write_text(text + "\n", encoding="utf-8")


@torch.inference_mode()
def _each(
    pictures: PictureSource, answer: Callable[[torch.Tensor], torch.Tensor], device: torch.device
) -> torch.Tensor:
    """``answer`` for every picture, on the CPU."""
    parts = torch.arange(len(pictures)).split(1000)
    rows = [answer((pictures[part.numpy()].float() / 255).to(device)) for part in parts]
    return torch.cat(rows).cpu()
