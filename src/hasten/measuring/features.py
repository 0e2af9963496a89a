"""Features of pictures: a small classifier of ours, for models that ship one."""

from __future__ import annotations

import itertools
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

from hasten.core.files import read_json, verify
from hasten.core.model import Model

WIDTH = 64


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
    """

    def __init__(self, folder: Path) -> None:
        verify(folder)
        facts = read_json(folder / "features.json")
        self.net = Classifier(facts["channels"], facts["classes"])
        self.net.load_state_dict(load_file(str(folder / "classifier.safetensors")))
        self.net.eval()
        statistics = load_file(str(folder / "statistics.safetensors"))
        self.mean, self.covariance = statistics["mean"], statistics["covariance"]
        self.count: int = facts["count"]
        self.accuracy: float = facts["accuracy"]

    @staticmethod
    def for_model(model: Model) -> FeatureNet | None:
        """The features that lie beside a model, as with the built-in ones; None without them."""
        folder = None if model.folder is None else model.folder / "features"
        return FeatureNet(folder) if folder is not None and folder.is_dir() else None

    @torch.inference_mode()
    def __call__(self, pictures: torch.Tensor, batch: int = 500) -> torch.Tensor:
        """(n, 64), float64."""
        rows = [self.net.features(part.float()) for part in pictures.split(batch)]
        return torch.cat(rows).double()

    def distance(self, ours: torch.Tensor, theirs: torch.Tensor) -> float:
        """Mean distance between two sets of pictures pair by pair, over that of unrelated ones."""
        a, b = self(ours), self(theirs)
        unrelated = (b - b.roll(1, 0)).norm(dim=1).mean() if len(b) > 1 else b.norm(dim=1).mean()
        return float((a - b).norm(dim=1).mean() / unrelated)
