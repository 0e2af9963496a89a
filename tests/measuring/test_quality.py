"""Quality against real pictures: each number against another implementation or its own spread."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from scipy.spatial import cKDTree
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

import hasten
from hasten.adapters.vision import load_vision
from hasten.core.artifact import ASSETS
from hasten.core.errors import NonFiniteError, UserError
from hasten.core.files import write_manifest
from hasten.core.report import Estimate
from hasten.data.rows import evenly_spread, load_rows
from hasten.measuring.features import FeatureNet, features_for
from hasten.measuring.frechet import frechet, frechet_estimate, influence, statistics
from hasten.measuring.kernel import kernel_estimate
from hasten.measuring.measure import judged
from hasten.measuring.precision_recall import precision_recall, wilson
from hasten.measuring.quality import quality
from hasten.measuring.random_features import RandomFeatures
from hasten.measuring.real import real_for
from many_pictures import many_pictures


class Given(torch.nn.Module):
    """Features that are handed over as they are, for torchmetrics."""

    num_features = 12

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return rows


def rows(n: int, seed: int, shift: float = 0.0, width: int = 12) -> torch.Tensor:
    source = torch.Generator().manual_seed(seed)
    mix = torch.randn(width, width, generator=torch.Generator().manual_seed(99)).double()
    drawn = torch.randn(n, width, generator=source).double()
    return drawn @ (mix / 3 + torch.eye(width) * (1 + shift)) + shift


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Eighty pictures of many sizes and modes in two classes, and files that are none."""
    return many_pictures(tmp_path_factory.mktemp("many"))


def test_frechet_is_torchmetrics_number():
    ours, real = rows(900, 1, 0.2), rows(1100, 2)
    metric = FrechetInceptionDistance(feature=Given(), normalize=True)
    metric.update(real, real=True)
    metric.update(ours, real=False)
    value = frechet_estimate(ours, *statistics(real)).value
    # Theirs takes roots of the eigenvalues of a product that is not symmetric.
    assert value == pytest.approx(float(metric.compute()), rel=1e-6)
    assert value == pytest.approx(frechet(*statistics(ours), *statistics(real)), rel=1e-10)


def test_kernel_distance_is_torchmetrics_number():
    ours, real = rows(700, 1, 0.1), rows(700, 2)
    metric = KernelInceptionDistance(feature=Given(), normalize=True, subsets=1, subset_size=700)
    metric.update(real, real=True)
    metric.update(ours, real=False)
    assert kernel_estimate(ours, real).value == pytest.approx(float(metric.compute()[0]), rel=1e-6)


def test_precision_and_recall_are_what_a_tree_search_counts():
    ours, real = rows(400, 1, 0.3), rows(500, 2)
    cut = real[torch.from_numpy(evenly_spread(500, 400))]

    def share(points: torch.Tensor, centres: torch.Tensor) -> float:
        radii = cKDTree(centres).query(centres, k=4)[0][:, 3]
        apart = np.linalg.norm(points[:, None].numpy() - centres[None].numpy(), axis=2)
        return float((apart <= radii).any(1).mean())

    precision, recall = precision_recall(ours, real)
    assert (precision.value, recall.value) == (share(ours, cut), share(cut, ours))
    assert 0 < recall.low < recall.value < recall.high < 1
    assert precision.n == recall.n == 400


def test_pictures_that_are_equal_cover_each_other():
    some = rows(50, 1) * 1e3 + 1e6
    same = some[:10].repeat(5, 1)
    precision, recall = precision_recall(same, some)
    assert precision.value == 1
    assert recall.value == pytest.approx(0.2)
    full = precision_recall(some, some)
    assert [one.value for one in full] == [1, 1]


def test_wilson_is_the_interval_of_scipy():
    from scipy.stats import binomtest

    for hits, n in [(0, 20), (3, 20), (20, 20), (911, 1000)]:
        theirs = binomtest(hits, n).proportion_ci(method="wilson")
        ours = wilson(hits, n)
        # 1.96 for the normal quantile 1.959964.
        assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=1e-5)


def test_the_influence_is_the_slope_of_the_distance():
    n = 5000
    ours, real = rows(n, 1, 0.3), rows(500, 2)
    mean, covariance = statistics(real)

    def weighted(weights: torch.Tensor) -> float:
        middle = weights @ ours
        apart = ours - middle
        return frechet(middle, (apart.T * weights) @ apart, mean, covariance)

    even = torch.full((n,), 1 / n).double()
    pulls = influence(ours, mean, covariance)
    for index in (0, 17, 4999):
        towards = torch.nn.functional.one_hot(torch.tensor(index), n).double() - even
        step = 1e-5
        slope = (weighted(even + step * towards) - weighted(even - step * towards)) / (2 * step)
        # statistics() divides by n - 1, the weighted covariance by n.
        assert float(pulls[index]) == pytest.approx(slope, rel=3 / n)


def test_the_frechet_interval_is_as_wide_as_the_spread_over_draws():
    mean, covariance = statistics(rows(20_000, 0))
    draws = [frechet_estimate(rows(400, seed, 0.2), mean, covariance) for seed in range(1, 201)]
    values = torch.tensor([draw.value for draw in draws])
    halves = torch.tensor([(draw.high - draw.value) / 1.96 for draw in draws])
    # 200 draws know a spread to 5%; the rest is the second order that the delta method drops.
    assert float(halves.mean() / values.std()) == pytest.approx(1, abs=0.2)
    inside = [draw.low <= float(values.mean()) <= draw.high for draw in draws]
    assert 0.9 <= np.mean(inside) <= 0.99


def test_the_kernel_interval_is_as_wide_as_the_spread_over_draws():
    draws = [kernel_estimate(rows(300, i, 0.1), rows(200, 1000 + i)) for i in range(1, 201)]
    values = torch.tensor([draw.value for draw in draws])
    halves = torch.tensor([(draw.high - draw.value) / 1.96 for draw in draws])
    assert float(halves.mean() / values.std()) == pytest.approx(1, abs=0.2)


def test_fewer_pictures_than_features_still_give_a_finite_interval():
    few, real = rows(8, 1, 0.2), rows(500, 2)
    flat = torch.cat([real, torch.zeros(500, 3)], 1)
    for ours, theirs in [
        (few, real),
        (torch.cat([few, torch.ones(8, 3)], 1), flat),
        (torch.zeros(8, 12), real),
        (few, torch.ones(9, 12)),
    ]:
        found = frechet_estimate(ours, *statistics(theirs))
        assert all(np.isfinite([found.value, found.low, found.high]))
        assert 0 <= found.low <= found.value <= found.high


def test_random_features_are_the_same_every_time_and_take_any_size():
    for shape in [(1, 4, 4), (3, 5, 9), (2, 28, 28), (3, 64, 200)]:
        pictures = torch.rand(5, *shape)
        one, other = RandomFeatures(shape[0]), RandomFeatures(shape[0])
        assert one(pictures).shape == (5, 64)
        assert one(pictures).dtype == torch.float64
        assert torch.equal(one(pictures), other(pictures))
        assert (one(pictures) - one(pictures, batch=2)).abs().max() < 1e-4  # order of sums
        assert not torch.equal(one(pictures), RandomFeatures(shape[0], seed=1)(pictures))
    assert one.name == "random convolutions, seed 0"
    with pytest.raises(UserError, match="4 pixels"):
        RandomFeatures(1)(torch.rand(2, 1, 3, 9))


@pytest.mark.slow
def test_random_features_see_noise_that_a_bad_plan_leaves():
    model = hasten.load("builtin:mnist")
    features = RandomFeatures(1)
    fine, rough = (
        hasten.build(model, hasten.Plan(grid="uniform", steps=steps)).sample(60, seed=seed)
        for steps, seed in ((6, 1), (2, 2))
    )
    real = statistics(features(hasten.build(model, hasten.Plan(steps=6)).sample(60, seed=3)))
    assert (
        frechet_estimate(features(fine), *real).high < frechet_estimate(features(rough), *real).low
    )


@pytest.fixture(scope="module")
def dino(tmp_path_factory):
    """A DINOv2 of a few thousand random parameters, as a folder."""
    transformers = pytest.importorskip("transformers")
    place = tmp_path_factory.mktemp("vision") / "tiny-dino"
    config = transformers.Dinov2Config(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=14
    )
    transformers.Dinov2Model(config).eval().save_pretrained(place)
    settings = {
        "size": {"shortest_edge": 32},
        "crop_size": {"height": 28, "width": 28},
        "image_mean": [0.5, 0.4, 0.3],
        "image_std": [0.2, 0.2, 0.1],
    }
    (place / "preprocessor_config.json").write_text(json.dumps(settings))
    return place


def test_a_vision_model_gives_its_pooled_answer(dino):
    import transformers

    features = load_vision(str(dino))
    assert (features.size, features.name) == (28, "dinov2 tiny-dino, 28 px")
    pictures = torch.rand(3, 3, 28, 28)
    net = transformers.Dinov2Model.from_pretrained(dino)
    mean, std = torch.tensor([0.5, 0.4, 0.3]), torch.tensor([0.2, 0.2, 0.1])
    with torch.no_grad():
        wanted = net((pictures - mean.view(3, 1, 1)) / std.view(3, 1, 1)).pooler_output
    assert (features(pictures) - wanted).abs().max() < 1e-5
    grey = torch.rand(4, 1, 9, 12)
    assert features(grey).shape == (4, 16)
    assert (features(grey) - features(grey.repeat(1, 3, 1, 1))).abs().max() < 1e-5
    with pytest.raises(UserError, match="2 channels"):
        features(torch.rand(1, 2, 8, 8))


def test_the_vision_half_of_clip_is_taken(tmp_path):
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    text = {**sizes, "num_attention_heads": 2, "vocab_size": 50}
    vision = {**sizes, "num_attention_heads": 2, "image_size": 16, "patch_size": 8}
    config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)
    net = transformers.CLIPModel(config).eval()
    net.save_pretrained(tmp_path)
    features = load_vision(str(tmp_path))
    pictures = torch.rand(2, 3, 16, 16)
    mean, std = torch.tensor(features.mean), torch.tensor(features.std)
    x = (pictures - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    with torch.no_grad():
        wanted = net.vision_model(pixel_values=x).pooler_output
    assert (features(pictures) - wanted).abs().max() < 1e-5


def test_a_vision_model_without_pooling_weights_gives_its_first_token(tmp_path):
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        image_size=16, patch_size=8,
    )  # fmt: skip
    net = transformers.ViTModel(config, add_pooling_layer=False).eval()
    net.save_pretrained(tmp_path)
    features = load_vision(str(tmp_path))
    x = (torch.rand(2, 3, 16, 16) - 0.5).clamp(0, 1)
    mean, std = torch.tensor(features.mean), torch.tensor(features.std)
    with torch.no_grad():
        wanted = net((x - mean.view(3, 1, 1)) / std.view(3, 1, 1)).last_hidden_state[:, 0]
    assert (features(x) - wanted).abs().max() < 1e-5


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"auto_map": {"AutoModel": "code.Model"}}, "auto_map"),
        ({"quantization_config": {"quant_method": "x"}}, "quantization_config"),
        ({"_attn_implementation": "someone/kernel"}, "attention code"),
        ({"model_type": "nothing-known"}, "no vision model"),
        ({"num_hidden_layers": 3}, "weights lack"),
        ({"hidden_size": 20}, "no vision model"),
    ],
)
def test_a_vision_folder_that_cannot_be_trusted_is_refused(dino, tmp_path, change, words):
    place = shutil.copytree(dino, tmp_path / "copy")
    config = json.loads((place / "config.json").read_text())
    (place / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(UserError, match=words) as caught:
        load_vision(str(place))
    assert "\n" not in str(caught.value)


def test_pickled_vision_weights_are_refused(dino, tmp_path):
    place = shutil.copytree(dino, tmp_path / "copy")
    weights = load_file(place / "model.safetensors")
    (place / "model.safetensors").unlink()
    torch.save(weights, place / "pytorch_model.bin")
    with pytest.raises(UserError, match="no vision model"):
        load_vision(str(place))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"crop_size": 0}, "0 pixels"),
        ({"image_mean": [1, 2]}, "three finite"),
        ({"image_std": [1, 0, 1]}, "positive"),
    ],
)
def test_picture_settings_that_cannot_be_meant_are_refused(dino, tmp_path, change, words):
    place = shutil.copytree(dino, tmp_path / "copy")
    file = place / "preprocessor_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(UserError, match=words):
        load_vision(str(place))


def test_missing_packages_are_named_with_the_line_that_installs_them(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r'pip install "hasten\[tune\]"'):
        load_rows(str(folder))


def test_features_are_those_given_else_beside_the_model_else_random(tiny_model, dino):
    model, plain = hasten.load("builtin:mnist"), tiny_model()
    assert features_for(model).name == "classifier beside the model (mnist)"
    assert features_for(model, "random").name == features_for(plain).name
    assert features_for(plain).name == "random convolutions, seed 0"
    assert features_for(plain, str(dino)).name.startswith("dinov2 ")
    assert isinstance(features_for(plain, str(ASSETS / "mnist" / "features")), FeatureNet)
    for wrong in ("no such thing", str(dino / "config.json")):
        with pytest.raises(UserError, match="no folder here and no hub id"):
            features_for(plain, wrong)


def test_quality_of_the_built_in_model_needs_no_data():
    model = hasten.load("builtin:mnist")
    real = real_for(model)
    assert real is not None
    assert real.sample is not None
    assert (real.count, tuple(real.sample.shape)) == (60_000, (10_000, 64))
    # The sample is one picture in six, so the two differ by the bias of 10,000 pictures alone.
    assert frechet(*statistics(real.sample), real.mean, real.covariance) < 0.1
    labels = [i % 10 for i in range(200)]
    plans = [hasten.Plan(solver="unipc(order=3)", grid="uniform", steps=5), hasten.Plan(steps=1)]
    good, bad = (
        quality(hasten.build(model, plan).sample(200, condition=labels, seed=1), real)
        for plan in plans
    )
    for found in (good, bad):
        for one in (found.fd, found.kd, found.precision, found.recall):
            assert isinstance(one, Estimate)
            assert one.low <= one.value <= one.high
            assert one.n == 200
    assert good.fd.high < bad.fd.low
    assert good.kd.high < bad.kd.low
    assert good.recall.low > bad.recall.high
    assert json.loads(json.dumps(dataclasses.asdict(good)))["features"] == real.features.name


def test_features_without_a_sample_still_give_the_frechet_distance(tmp_path):
    place = shutil.copytree(ASSETS / "mnist" / "features", tmp_path / "features")
    tensors = load_file(place / "statistics.safetensors")
    del tensors["sample"]
    save_file(tensors, place / "statistics.safetensors")
    write_manifest(place)
    real = real_for(hasten.load("builtin:mnist"), features=str(place))
    assert real is not None
    found = quality(torch.rand(20, 1, 28, 28), real)
    assert found.fd.value > 1
    assert (found.kd, found.precision, found.recall) == (None, None, None)


def test_features_in_the_cache_of_the_hub_are_found_behind_their_links(tmp_path):
    blobs = tmp_path / "models--owner--name" / "blobs"
    place = tmp_path / "models--owner--name" / "snapshots" / "abc" / "features"
    blobs.mkdir(parents=True)
    place.mkdir(parents=True)
    for file in (ASSETS / "mnist" / "features").iterdir():
        shutil.copy(file, blobs / file.name)
        (place / file.name).symlink_to(blobs / file.name)
    assert FeatureNet(place).count == 60_000


def test_real_pictures_come_from_a_folder_of_any_sizes_and_modes(folder, tiny_model):
    model = tiny_model()
    real = real_for(model, str(folder))
    assert real is not None
    assert (real.count, real.name) == (80, folder.name)
    assert real.features.name == "random convolutions, seed 0"
    few = real_for(model, str(folder), limit=60)
    assert few is not None
    assert few.count == 60
    assert few.sample is not None
    assert real.sample is not None
    picked = torch.from_numpy(evenly_spread(80, 60))
    assert (few.sample - real.sample[picked]).abs().max() < 1e-4  # batches of other sizes
    found = quality(torch.rand(40, 1, 8, 8), real)
    assert found.kd is not None
    assert found.features == real.features.name


def test_a_model_that_ships_nothing_has_no_real_pictures_without_data(tiny_model):
    assert real_for(tiny_model()) is None
    with pytest.raises(UserError, match="give data as well"):
        real_for(tiny_model(), features="random")


def test_too_few_pictures_are_refused_with_how_many_are_needed(tmp_path, tiny_model):
    for index in range(49):
        Image.new("L", (8, 8), index).save(tmp_path / f"{index}.png")
    with pytest.raises(UserError, match="holds 49 pictures; quality needs 50 or more"):
        real_for(tiny_model(), str(tmp_path))
    Image.new("L", (8, 8), 49).save(tmp_path / "49.png")
    real = real_for(tiny_model(), str(tmp_path))
    assert real is not None
    with pytest.raises(UserError, match="n is 4; quality needs 5"):
        quality(torch.rand(4, 1, 8, 8), real)
    with pytest.raises(NonFiniteError):
        quality(torch.full((9, 1, 8, 8), torch.nan), real)


def test_a_student_is_judged_against_the_pictures_of_its_teacher():
    model = hasten.load("builtin:mnist")
    sampler = hasten.build(model, "levers=[student(folder='builtin:mnist-2')]")
    assert set(judged(sampler, 5)) == {
        "fd",
        "kd",
        "precision",
        "recall",
        "prompt_accuracy",
        "features",
    }


def test_features_of_other_channels_are_refused(tiny_model):
    model = dataclasses.replace(tiny_model(), shape=(3, 8, 8))
    with pytest.raises(UserError, match=r"have 3; name features"):
        features_for(model, str(ASSETS / "mnist" / "features"))
