"""Train the small classifier whose features measure quality, and take their statistics."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Literal

import pydantic
import torch
from safetensors.torch import save_file
from tqdm import tqdm

from hasten.core.errors import require
from hasten.core.files import new_folder, require_replaceable
from hasten.core.random_streams import generator
from hasten.data.rows import Pictures, evenly_spread
from hasten.measuring.features import Classifier
from hasten.measuring.frechet import statistics
from hasten.training.order import order
from hasten.training.recipe import Data, Document, Whole

BATCH = 128
SAMPLE = 10_000  # features that are stored one by one


class ClassifierRecipe(Document):
    """A small classifier, and the statistics of its features over the data.

    Attributes:
        objective: always classifier.
        name: of the classifier.
        data: the pictures to train on, with their labels.
        test: the pictures to test on, with their labels.
        epochs: how often each picture is seen.
        seed: of all random numbers.
    """

    objective: Literal["classifier"]
    data: Data
    test: Data
    epochs: Whole = 4
    seed: Annotated[int, pydantic.Field(ge=0)] = 0

    @classmethod
    def takes(cls, objective: object) -> bool:
        return objective == "classifier"


def train_classifier(
    train: Pictures, test: Pictures, out: Path, recipe: ClassifierRecipe, quiet: bool = False
) -> float:
    """Write ``classifier.safetensors``, ``statistics.safetensors`` (mean and covariance of the
    features of the train pictures, and up to 10,000 of them, evenly spread, in float32) and
    ``features.json`` into ``out``; returns the test accuracy.

    AdamW with a one-cycle rate; pictures are shifted by up to two pixels.
    """
    require(train.labels is not None and test.labels is not None, "a classifier needs labels.")
    assert train.labels is not None
    assert test.labels is not None
    require_replaceable(out)
    classes = int(train.labels.max()) + 1
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(recipe.seed)
        net = Classifier(train.shape[0], classes)
    steps = recipe.epochs * len(train) // BATCH
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3, weight_decay=0.05)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
    for step in tqdm(range(steps), desc="classifier", disable=quiet, file=sys.stderr):
        index = order(recipe.seed, step, BATCH, len(train))
        shift = torch.randint(-2, 3, (2,), generator=generator(recipe.seed, step)).tolist()
        pictures = (train[index].float() / 255).roll(shift, (2, 3))
        scores = net(pictures)
        labels = train.labels[torch.from_numpy(index)]
        loss = torch.nn.functional.cross_entropy(scores, labels, label_smoothing=0.05)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        rate.step()
    net.eval()
    accuracy = _accuracy(net, test)
    features = _features(net, train)
    mean, covariance = statistics(features)
    sample = features[torch.from_numpy(evenly_spread(len(features), SAMPLE))]
    with new_folder(out) as folder:
        save_file(net.state_dict(), str(folder / "classifier.safetensors"))
        tensors = {"mean": mean, "covariance": covariance, "sample": sample}
        save_file(tensors, str(folder / "statistics.safetensors"))
        facts = {"channels": train.shape[0], "classes": classes, "count": len(train)}
        text = json.dumps({**facts, "accuracy": accuracy, "test_pictures": len(test)}, indent=1)
        (folder / "features.json").write_text(text + "\n", encoding="utf-8")
    return accuracy


@torch.inference_mode()
def _features(net: Classifier, pictures: Pictures) -> torch.Tensor:
    rows = [net.features(part) for part in _parts(pictures)]
    return torch.cat(rows)


@torch.inference_mode()
def _accuracy(net: Classifier, pictures: Pictures) -> float:
    assert pictures.labels is not None
    guess = torch.cat([net(part).argmax(1) for part in _parts(pictures)])
    return float((guess == pictures.labels).double().mean())


def _parts(pictures: Pictures) -> list[torch.Tensor]:
    index = torch.arange(len(pictures)).split(1000)
    return [pictures[part.numpy()].float() / 255 for part in index]
