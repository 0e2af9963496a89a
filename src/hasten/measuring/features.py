"""The features quality is measured in: a vision model's, those a model ships, or random ones."""

from __future__ import annotations

import itertools
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

from hasten.adapters.vision import load_vision
from hasten.core.features import Features, in_batches
from hasten.core.files import cache_root, read_json, verify
from hasten.core.model import Model
from hasten.measuring.random_features import RandomFeatures

WIDTH = 64
RANDOM = "random"


def features_for(model: Model, source: str | None = None) -> Features:
    """The features to measure ``model`` in.

    Args:
        source: ``"random"``; a folder of ours with a classifier, such as ``hasten train`` makes; or
            the folder or hub id of a vision model. None takes the classifier beside the model, and
            random convolutions where it has none.
    """
    if source is None:
        return FeatureNet.for_model(model) or RandomFeatures(model.picture_shape[0])
    if source == RANDOM:
        return RandomFeatures(model.picture_shape[0])
    if (Path(source) / "features.json").is_file():
        return FeatureNet(Path(source))
    return load_vision(source, model.device)


class Classifier(nn.Module):
    """Three strided convolutions, features (n, 64), and class scores; pictures in [0, 1]."""

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
        self.neck = nn.Linear(4 * widths[-1], WIDTH)
        self.head = nn.Linear(WIDTH, classes)

    def features(self, pictures: torch.Tensor) -> torch.Tensor:
        """(n, 64) for pictures (n, c, h, w) in [0, 1]."""
        return self.neck(self.body(pictures * 2 - 1))

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.features(pictures)))


class FeatureNet:
    """A trained :class:`Classifier` and the statistics of real pictures in its features.

    Attributes:
        mean (64,), covariance (64, 64): of ``count`` real pictures, float64.
        sample (m, 64): features of some of them, float32; None in folders made before there were.
    """

    def __init__(self, folder: Path, name: str = "") -> None:
        verify(folder, cache_root(folder))
        self.source = name or folder.resolve().parent.name
        self.name = f"classifier beside the model ({self.source})"
        facts = read_json(folder / "features.json")
        self.net = Classifier(facts["channels"], facts["classes"])
        self.net.load_state_dict(load_file(str(folder / "classifier.safetensors")))
        self.net.eval()
        statistics = load_file(str(folder / "statistics.safetensors"))
        self.mean, self.covariance = statistics["mean"], statistics["covariance"]
        self.sample = statistics.get("sample")
        self.count: int = facts["count"]
        self.accuracy: float = facts["accuracy"]

    @staticmethod
    def for_model(model: Model) -> FeatureNet | None:
        """The features that lie beside a model, as with the built-in ones; None without them."""
        folder = None if model.folder is None else model.folder / "features"
        if folder is None or not folder.is_dir():
            return None
        return FeatureNet(folder, model.name.rpartition(":")[2])

    def __call__(self, pictures: torch.Tensor, batch: int = 500) -> torch.Tensor:
        """(n, 64), float64."""
        return in_batches(self.net.features, pictures, batch)

    def distance(self, ours: torch.Tensor, theirs: torch.Tensor) -> float:
        """Mean distance between two sets of pictures pair by pair, over that of unrelated ones."""
        a, b = self(ours), self(theirs)
        unrelated = (b - b.roll(1, 0)).norm(dim=1).mean() if len(b) > 1 else b.norm(dim=1).mean()
        return float((a - b).norm(dim=1).mean() / unrelated)
