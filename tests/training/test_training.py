"""Training: targets, exact resume, checkpoints that survive, recipes."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import hasten
from hasten.core.errors import NonFiniteError, UserError
from hasten.core.files import write_manifest
from hasten.core.random_streams import generator
from hasten.data.rows import Pictures, load_rows
from hasten.training import checkpoint
from hasten.training.interrupt import Interrupted
from hasten.training.learned_schedule import MonotoneShape
from hasten.training.loop import Training
from hasten.training.objective import Batch
from hasten.training.order import order
from hasten.training.recipe import Recipe, load_recipe
from hasten.training.train import prepared, rows_of, train

ROOT = Path(__file__).parents[2]
NETWORK = {
    "class": "UNet2DModel",
    "sample_size": 8,
    "in_channels": 1,
    "out_channels": 1,
    "block_out_channels": [8, 8],
    "layers_per_block": 1,
    "down_block_types": ["DownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "UpBlock2D"],
    "norm_num_groups": 4,
    "attention_head_dim": 8,
    "dropout": 0.2,
    "num_class_embeds": 3,
}


def fields(source: Path, **changes):
    return {
        "name": "tiny",
        "data": {"source": str(source), "label": "label", "shape": [1, 8, 8], "flip": True},
        "network": NETWORK,
        "labels": 2,
        "optimizer": {"rate": 1e-3, "batch": 16, "warmup": 32},
        "pictures": 16 * 12,
        "ema": 0.9,
        "checkpoint_every": 16,
        "preview_every": 0,
        **changes,
    }


def seen(x0: torch.Tensor, labels: torch.Tensor | None, step: int = 0) -> Batch:
    return Batch(rows=x0, labels=labels, generator=generator(1, step))


def run(recipe: Recipe, folder: Path, steps: int | None = None):
    net, objective = prepared(recipe)
    rows = load_rows(recipe.data.source)
    pictures = Pictures(rows, recipe.data.shape, label=recipe.data.label)
    rows = rows_of(recipe, pictures)
    training = Training(
        recipe=recipe, objective=objective, net=net, rows=rows, run=folder, quiet=True
    )
    if steps is not None:  # stop early, as a kill after a checkpoint does
        training.recipe = recipe
        real = checkpoint.save

        def save(where, step, tensors, facts):
            real(where, step, tensors, facts)
            if step == steps:
                raise KeyboardInterrupt

        checkpoint.save = save
        try:
            training.fit_()
        except KeyboardInterrupt:
            return None
        finally:
            checkpoint.save = real
    ema = training.fit_()
    return dict(net.state_dict()), ema.tensors()


def assert_same(a, b):
    for left, right in zip(a, b, strict=True):
        worst = max(float((left[name] - right[name]).abs().max()) for name in left)
        assert worst == 0


def test_a_resumed_run_ends_with_the_weights_of_an_uninterrupted_one(parquet, tmp_path):
    recipe = Recipe(**fields(parquet))
    whole = run(recipe, tmp_path / "whole")
    assert run(recipe, tmp_path / "cut", steps=5) is None
    assert_same(whole, run(recipe, tmp_path / "cut"))


SCRIPT = """
import sys, torch
torch.set_num_threads(1)
from hasten.training.order import order
from hasten.training.recipe import Recipe, load_recipe
from hasten.training.train import train
train(load_recipe(sys.argv[1], Recipe), sys.argv[2], quiet=True)
"""


@pytest.mark.slow
def test_a_run_that_is_killed_resumes_to_the_same_weights(parquet, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(fields(parquet, pictures=16 * 60)))
    command = [sys.executable, "-c", SCRIPT, str(recipe)]
    subprocess.run([*command, str(tmp_path / "whole")], check=True, capture_output=True)
    cut, delays = tmp_path / "cut", iter((0.3, 0.05, 0.5))
    for delay in delays:
        process = subprocess.Popen([*command, str(cut)], stderr=subprocess.PIPE)
        before = set((cut / "checkpoints").glob("step-*"))
        while process.poll() is None and set((cut / "checkpoints").glob("step-*")) <= before:
            time.sleep(0.02)
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert checkpoint.newest(cut / "checkpoints") is not None
    subprocess.run([*command, str(cut)], check=True, capture_output=True)
    name = "model/unet/diffusion_pytorch_model.safetensors"
    assert (tmp_path / "whole" / name).read_bytes() == (cut / name).read_bytes()


def test_a_damaged_checkpoint_is_passed_over(parquet, tmp_path):
    recipe = Recipe(**fields(parquet))
    whole = run(recipe, tmp_path / "whole")
    run(recipe, tmp_path / "cut", steps=6)
    newest = checkpoint.newest(tmp_path / "cut")
    assert newest is not None
    weights = newest / "weights.safetensors"
    body = bytearray(weights.read_bytes())
    body[-5] ^= 4
    weights.write_bytes(body)
    older = checkpoint.newest(tmp_path / "cut")
    assert older is not None
    assert older.name == "step-000000005"
    assert_same(whole, run(recipe, tmp_path / "cut"))


def test_another_recipe_is_refused_in_the_same_folder(parquet, tmp_path):
    run(Recipe(**fields(parquet)), tmp_path, steps=2)
    with pytest.raises(UserError, match="ema differ"):
        run(Recipe(**fields(parquet, ema=0.5)), tmp_path)


def test_a_run_of_an_older_version_goes_on_where_only_younger_fields_are_missing(parquet, tmp_path):
    recipe = Recipe(**fields(parquet))
    whole = run(recipe, tmp_path / "whole")
    run(recipe, tmp_path / "cut", steps=5)
    newest = checkpoint.newest(tmp_path / "cut")
    assert newest is not None
    facts = json.loads((newest / "facts.json").read_text())
    del facts["recipe"]["data"]["caption"], facts["recipe"]["track"]
    (newest / "facts.json").write_text(json.dumps(facts))
    write_manifest(newest, {"step": 5})
    assert checkpoint.newest(tmp_path / "cut") == newest
    assert_same(whole, run(recipe, tmp_path / "cut"))


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_checkpoint(parquet, tmp_path):
    options = {"rate": 1e30, "batch": 16, "warmup": 0, "clip": 1e30}
    recipe = Recipe(**fields(parquet, optimizer=options, pictures=16 * 40, checkpoint_every=16))
    with pytest.raises(NonFiniteError, match=r"near step \d+.*optimizer.rate"):
        run(recipe, tmp_path)
    kept = checkpoint.newest(tmp_path)
    assert kept is None or all(
        bool(value.isfinite().all()) for value in checkpoint.load(kept)[0]["weights"].values()
    )


KINDS = [
    pytest.param("ddpm", "epsilon", {}, marks=pytest.mark.slow),
    pytest.param("vp-linear", "v", {}, marks=pytest.mark.slow),
    pytest.param("vp-cosine", "x0", {}, marks=pytest.mark.slow),
    ("flow", "flow", {}),
    ("edm", "edm(sigma_data=0.3)", {"law": "lognormal"}),
    ({"name": "learned"}, "epsilon", {}),
    pytest.param({"name": "learned"}, "v", {}, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("schedule", "prediction", "times"), KINDS)
def test_every_path_and_prediction_trains(parquet, tmp_path, schedule, prediction, times):
    recipe = Recipe(
        **fields(
            parquet,
            schedule=schedule,
            prediction=prediction,
            times=times,
            pictures=16 * 45,
            checkpoint_every=10**6,
            network={**NETWORK, "dropout": 0.0},
            optimizer={"rate": 3e-3, "batch": 16, "warmup": 0},
        )
    )
    net, objective = prepared(recipe)
    x0 = Pictures(load_rows(str(parquet)), (1, 8, 8), label="label")
    pictures, labels = x0[np.arange(40)].float() / 127.5 - 1, x0.labels

    def loss() -> float:
        with torch.no_grad() if not isinstance(schedule, dict) else torch.enable_grad():
            losses = [objective.loss(net, seen(pictures, labels, i)) for i in range(4)]
        return float(torch.stack(losses).mean().detach())

    before = loss()
    rows = rows_of(recipe, x0)
    training = Training(
        recipe=recipe, objective=objective, net=net, rows=rows, run=tmp_path, quiet=True
    )
    training.fit_()
    assert loss() < 0.85 * before


def test_the_learned_shape_is_the_path_that_is_saved():
    shape = MonotoneShape((-13.3, 5.0))
    schedule = shape.schedule()
    position = torch.linspace(0, 1, 9)
    values, rises = shape(position)
    for at, value in zip(position.tolist(), values.tolist(), strict=True):
        assert schedule.at(at).t == pytest.approx(1000 * value, abs=2e-3)  # float32 against float64
    step = 1e-3
    inner = position[1:-1]
    slope = (shape(inner + step)[0] - shape(inner - step)[0]) / (2 * step)
    assert torch.allclose(slope, rises[1:-1], rtol=2e-3)


@pytest.mark.slow
def test_the_learned_shape_moves_to_lower_the_variance_of_the_bound(parquet, tmp_path):
    recipe = Recipe(
        **fields(
            parquet,
            schedule={"name": "learned"},
            pictures=16 * 150,
            checkpoint_every=10**6,
            network={**NETWORK, "dropout": 0.0},
            optimizer={"rate": 3e-3, "batch": 16, "warmup": 0, "decay": "none"},
        )
    )
    net, objective = prepared(recipe)
    before = objective.shape.schedule()
    pictures = Pictures(load_rows(str(parquet)), (1, 8, 8), label="label")
    rows = rows_of(recipe, pictures)
    Training(
        recipe=recipe, objective=objective, net=net, rows=rows, run=tmp_path, quiet=True
    ).fit_()
    after = objective.shape.schedule()
    moved = abs(after.at(0.5).half_log_snr - before.at(0.5).half_log_snr)
    assert moved > 0.05

    def variance(schedule) -> float:
        x0 = pictures[np.arange(40)].float() / 127.5 - 1
        bounds = []
        for i, position in enumerate(np.linspace(0.01, 0.99, 60)):
            level, step = schedule.at(position), 1e-4
            up, down = schedule.at(position + step), schedule.at(position - step)
            slope = (down.half_log_snr - up.half_log_snr) / step  # d gamma / d position
            noise = torch.randn(x0.shape, generator=generator(9, i))
            with torch.no_grad():
                x, t = level.alpha * x0 + level.sigma * noise, torch.full((40,), level.t)
                answer = net(x, t, pictures.labels)
            bounds.append(0.5 * slope * (answer - noise).square().mean().item())
        return float(np.var(bounds) / np.mean(bounds) ** 2)

    assert variance(after) < variance(before)


def test_training_saves_what_stock_diffusers_and_hasten_load(parquet, tmp_path):
    from diffusers import DDPMPipeline

    recipe = Recipe(**fields(parquet, pictures=16 * 4, preview_every=32))
    folder = train(recipe, tmp_path / "run", quiet=True)
    assert DDPMPipeline.from_pretrained(folder).unet.config.sample_size == 8
    model = hasten.load(str(folder))
    assert (model.labels, model.null_label, model.shape) == (2, 2, (1, 8, 8))
    assert hasten.build(model, hasten.Plan(steps=2, guidance=2.0)).sample(3, condition=1).shape == (
        3,
        1,
        8,
        8,
    )
    previews = sorted((tmp_path / "run" / "previews").iterdir())
    assert [file.name for file in previews] == ["0000000032.png", "0000000064.png"]
    assert "tiny.parquet" in (folder / "README.md").read_text()
    assert str(tmp_path) not in (folder / "README.md").read_text()


def test_losses_go_to_the_tracker_that_is_named(parquet, tmp_path):
    recipe = Recipe(**fields(parquet, pictures=16 * 20, track="tensorboard"))
    run(recipe, tmp_path)
    assert list(tmp_path.rglob("events.out.tfevents.*"))


def test_a_step_sees_every_picture_once_an_epoch_whatever_the_batch():
    seen = np.concatenate([order(3, step, 7, 20) for step in range(20)])
    for epoch in range(7):
        assert sorted(seen[epoch * 20 : epoch * 20 + 20]) == list(range(20))
    assert not np.array_equal(seen[:20], seen[20:40])


def test_pictures_of_other_sizes_are_covered_and_cut(tmp_path):
    for index, size in enumerate([(30, 20), (9, 40), (8, 8)]):
        (tmp_path / "a").mkdir(exist_ok=True)
        Image.new("RGB", size, (255, 0, 0)).save(tmp_path / "a" / f"{index}.png")
    pictures = Pictures(load_rows(str(tmp_path)), (3, 8, 8))
    assert pictures[np.arange(3)].shape == (3, 3, 8, 8)
    assert (pictures[np.arange(3)][:, 0] == 255).all()


def test_a_card_states_the_pictures_that_were_seen(parquet, tmp_path):
    """A run that its budget ends does not claim the recipe's pictures."""
    recipe = Recipe(**fields(parquet, pictures=16 * 100_000, checkpoint_every=10**9))
    reads = itertools.count()
    folder = train(recipe, tmp_path, minutes=0.25, clock=lambda: float(next(reads)), quiet=True)
    newest = checkpoint.newest(tmp_path / "checkpoints")
    assert newest is not None
    step = checkpoint.load(newest)[1]["step"]
    assert 1 <= step < 15  # the clock says a second later at each look
    card = (folder / "README.md").read_text()
    assert f"pictures seen: {16 * step:,}, batch 16" in card
    assert "1,600,000" not in card


@pytest.mark.slow
def test_two_processes_train_the_same_weights_together(parquet, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(fields(parquet, pictures=16 * 6)))
    script = "from accelerate import PartialState\nPartialState(cpu=True)\n"  # two on a CPU
    script += "from hasten.cli import main; main()"
    (tmp_path / "go.py").write_text(script)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
    command += [str(tmp_path / "go.py"), "train", str(recipe), "--out", str(tmp_path / "run")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    model = hasten.load(str(tmp_path / "run" / "model"))
    assert hasten.build(model, hasten.Plan(steps=2)).sample(2).isfinite().all()
    alone = hasten.load(str(train(load_recipe(recipe, Recipe), tmp_path / "alone", quiet=True)))
    # The same pictures a step, other draws of noise a process: near, and not the same.
    pairs = zip(model.net.parameters(), alone.net.parameters(), strict=True)
    apart = max(float((a - b).abs().max()) for a, b in pairs)
    assert 0 < apart < 0.02


@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_shipped_recipes_are_valid_and_run_a_step(name, tmp_path):
    recipe = load_recipe(ROOT / "recipes" / f"{name}.yaml", Recipe)
    net, objective = prepared(recipe)
    channels, height, width = recipe.data.shape
    pictures = torch.rand(2, channels, height, width, generator=generator(0))
    from hasten.core.codec import codecs

    x0 = codecs.parse(recipe.codec).encode(pictures)
    loss = objective.loss(net, seen(x0, torch.tensor([1, 2])))
    loss.backward()
    assert torch.isfinite(loss)
    count = sum(value.numel() for value in net.parameters()) / 1e6
    assert count < 3 if name == "mnist" else 10 <= count <= 20


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"pictures": 0}, "pictures"),
        ({"data__shape": [1, 27, 28]}, "multiple of 2"),
        ({"optimizer__rate": -1.0}, "rate"),
        ({"precision": "fp8"}, "precision"),
        ({"schedule": "vp-linnear"}, "vp-linear"),
        ({"prediction": "eps"}, "epsilon"),
        ({"network__class": "Sequential"}, "network class"),
        ({"labels": 4.5}, "labels"),
        ({"surprise": 1}, "surprise"),
        ({"name": "../up"}, "name"),
    ],
)
def test_a_wrong_recipe_is_refused_in_one_line(changes, words):
    with pytest.raises(UserError, match=words) as caught:
        prepared(load_recipe(ROOT / "recipes" / "mnist.yaml", Recipe, **changes))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "- a", "a: [", "!!python/object:os.system {}"])
def test_a_file_that_is_no_recipe_is_refused(text, tmp_path):
    file = tmp_path / "recipe.yaml"
    file.write_text(text)
    with pytest.raises(UserError, match=r"recipe\.yaml"):
        load_recipe(file, Recipe)


def test_data_that_cannot_be_read_is_refused(tmp_path, parquet):
    (tmp_path / "notes.txt").write_text("no data")
    for source in (tmp_path / "notes.txt", tmp_path / "nowhere"):
        with pytest.raises(UserError, match="data"):
            load_rows(str(source))
    with pytest.raises(UserError, match=r"labell.*label"):
        Pictures(load_rows(str(parquet)), (1, 8, 8), label="labell")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_told_to_stop_is_kept_and_goes_on_to_the_same_weights(
    parquet, tmp_path, monkeypatch, number
):
    recipe = Recipe(**fields(parquet))
    whole = run(recipe, tmp_path / "whole")
    before, step = signal.getsignal(number), Training._step_

    def told(training, *rest):
        if training.step == 3:
            os.kill(os.getpid(), number)
        return step(training, *rest)

    monkeypatch.setattr(Training, "_step_", told)
    seen = 4 * recipe.optimizer.batch
    with pytest.raises(Interrupted, match=f"stopped after {seen} pictures, which are kept in"):
        train(recipe, tmp_path / "cut", quiet=True)
    assert signal.getsignal(number) is before
    assert checkpoint.load(checkpoint.newest(tmp_path / "cut" / "checkpoints"))[1]["step"] == 4
    monkeypatch.setattr(Training, "_step_", step)
    assert_same(whole, run(recipe, tmp_path / "cut" / "checkpoints"))
