"""The classifier that quality is measured with: its features, their statistics, its training."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hasten.core.errors import UserError
from hasten.data.rows import Pictures, load_rows
from hasten.measuring.classifiers import NETWORKS
from hasten.measuring.features import FeatureNet
from hasten.measuring.frechet import frechet, statistics
from hasten.training import checkpoint
from hasten.training.classifier import ClassifierRecipe, shifted
from hasten.training.train import train


def recipe(source, network="convolutions", **changes) -> ClassifierRecipe:
    data = {"source": str(source), "label": "label", "shape": [1, 8, 8]}
    fields = {
        "objective": "classifier",
        "name": "tiny",
        "data": data,
        "test": data,
        "network": network,
        "shift": 1,
        "optimizer": {"rate": 4e-3, "batch": 16, "warmup": 64},
        "pictures": 16 * 30,
        "ema": 0.9,
        "checkpoint_every": 16 * 3,
    }
    return ClassifierRecipe(**{**fields, **changes})


@pytest.mark.parametrize(
    "network", ["convolutions", pytest.param("resnet", marks=pytest.mark.slow)]
)
def test_a_recipe_gives_features_and_statistics(network, parquet, tmp_path):
    steps = {"convolutions": 30, "resnet": 3}[network]
    made = recipe(parquet, network, pictures=16 * steps)
    features = FeatureNet(train(made, tmp_path, quiet=True))
    assert features.accuracy > (0.9 if network == "convolutions" else 0.0)
    width = NETWORKS[network].width
    assert features.covariance.shape == (width, width)
    assert features.sample is not None
    assert features.sample.shape == (40, width)
    pictures = Pictures(load_rows(str(parquet)), (1, 8, 8))[np.arange(40)].float() / 255
    mean, covariance = statistics(features(pictures))
    assert frechet(mean, covariance, features.mean, features.covariance) < 1e-3
    assert features.distance(pictures, pictures) == 0


def test_a_damaged_folder_is_refused(parquet, tmp_path):
    folder = train(recipe(parquet, pictures=16), tmp_path, quiet=True)
    body = bytearray((folder / "classifier.safetensors").read_bytes())
    body[-3] ^= 1
    (folder / "classifier.safetensors").write_bytes(body)
    with pytest.raises(UserError, match=r"classifier\.safetensors is damaged"):
        FeatureNet(folder)


def test_a_run_that_goes_on_ends_as_one_that_was_not_interrupted(parquet, tmp_path):
    weights = []
    for name in ("whole", "halved"):
        folder = train(recipe(parquet, pictures=16 * 6), tmp_path / name, quiet=True)
        if name == "halved":
            newest = checkpoint.newest(tmp_path / name / "checkpoints")
            assert newest is not None
            (newest / "facts.json").unlink()  # as if it had been killed while it wrote the last
            folder = train(recipe(parquet, pictures=16 * 6), tmp_path / name, quiet=True)
        weights.append(FeatureNet(folder).net.state_dict())
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


def test_a_budget_ends_the_training(parquet, tmp_path):
    ticks = iter(range(10**6))
    folder = train(
        recipe(parquet, pictures=10**6),
        tmp_path,
        minutes=1,
        clock=lambda: float(next(ticks)),
        quiet=True,
    )
    assert (folder / "features.json").is_file()


def test_pictures_are_shifted_each_by_its_own_amount():
    pictures = torch.arange(25.0).reshape(1, 1, 5, 5).repeat(64, 1, 1, 1)
    moved = shifted(pictures, 2, (0, 0))
    middles = {tuple(divmod(int(value), 5)) for value in moved[:, 0, 2, 2]}
    assert len(middles) > 15
    assert {row for row, _ in middles} == {column for _, column in middles} == set(range(5))
    assert torch.equal(shifted(pictures, 2, (0, 0)), moved)
    assert torch.equal(shifted(pictures, 0, (0, 0)), pictures)


def test_pictures_without_labels_are_refused(parquet, tmp_path):
    unlabelled = {"source": str(parquet), "shape": [1, 8, 8]}
    with pytest.raises(UserError, match=r"data\.label"):
        train(recipe(parquet, data=unlabelled), tmp_path, quiet=True)
