"""The features quality is measured in: a vision model's, those a model ships, or random ones."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file

from hasten.adapters.vision import load_vision
from hasten.core.errors import require
from hasten.core.features import Features, in_batches
from hasten.core.files import cache_root, read_json, verify
from hasten.core.model import Model
from hasten.measuring.classifiers import NETWORKS
from hasten.measuring.random_features import RandomFeatures

RANDOM = "random"


def features_for(model: Model, source: str | None = None) -> Features:
    """The features to measure ``model`` in.

    Args:
        source: ``"random"``; a folder of ours with a classifier, such as ``hasten train`` makes; or
            the folder or hub id of a vision model. None takes the classifier beside the model, and
            random convolutions where it has none.
    """
    channels = model.picture_shape[0]
    if source is None:
        return FeatureNet.for_model(model) or RandomFeatures(channels)
    if source == RANDOM:
        return RandomFeatures(channels)
    if (Path(source) / "features.json").is_file():
        net = FeatureNet(Path(source))
        require(
            net.channels == channels,
            f"features {source!r} are of pictures with {net.channels} channel(s), and those of "
            f"model {model.name!r} have {channels}; name features that were learned for such.",
        )
        return net
    return load_vision(source, model.device)


class FeatureNet:
    """A trained classifier and the statistics of real pictures in its features.

    Attributes:
        mean (d,), covariance (d, d): of ``count`` real pictures, float64.
        sample (m, d): features of some of them, float32; None in folders made before there were.
    """

    def __init__(self, folder: Path, name: str = "") -> None:
        verify(folder, cache_root(folder))
        self.source = name or folder.resolve().parent.name
        self.name = f"classifier beside the model ({self.source})"
        facts = read_json(folder / "features.json")
        self.channels: int = facts["channels"]
        network = NETWORKS[facts.get("network", "convolutions")]
        self.net = network(self.channels, facts["classes"])
        self.net.load_state_dict(load_file(str(folder / "classifier.safetensors")))
        self.net.eval()
        statistics = load_file(str(folder / "statistics.safetensors"))
        self.mean, self.covariance = statistics["mean"], statistics["covariance"]
        self.sample = statistics["sample"].float() if "sample" in statistics else None
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
        """(n, d), float64."""
        return in_batches(self.net.features, pictures, batch)

    def distance(self, ours: torch.Tensor, theirs: torch.Tensor) -> float:
        """Mean distance between two sets of pictures pair by pair, over that of unrelated ones."""
        a, b = self(ours), self(theirs)
        unrelated = (b - b.roll(1, 0)).norm(dim=1).mean() if len(b) > 1 else b.norm(dim=1).mean()
        return float((a - b).norm(dim=1).mean() / unrelated)
