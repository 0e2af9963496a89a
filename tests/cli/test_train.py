"""``hasten train``: recipes by name, and wrong recipes."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from hasten.learning.recipe_fields import descriptions, reference
from hasten.training.recipe import Recipe, load_recipe
from hasten.training.shipped import shipped_recipes

ROOT = Path(__file__).parents[2]
GOOD = {
    "name": "tiny",
    "data": {"source": "tiny.parquet", "label": "label", "shape": [1, 8, 8]},
    "network": {
        "sample_size": 8,
        "in_channels": 1,
        "out_channels": 1,
        "block_out_channels": [8, 16],
        "layers_per_block": 1,
        "down_block_types": ["DownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "UpBlock2D"],
        "norm_num_groups": 4,
        "num_class_embeds": 3,
    },
    "labels": 2,
    "pictures": 8,
    "optimizer": {"batch": 4},
    "preview_every": 0,
}


def changed(path: str, value: object) -> dict:
    """GOOD with the field ``path`` set, or left out where ``value`` is None."""
    recipe = yaml.safe_load(yaml.safe_dump(GOOD))
    *parents, last = path.split("/")
    spot = recipe
    for parent in parents:
        spot = spot[parent]
    if value is None:
        del spot[last]
    else:
        spot[last] = value
    return recipe


WRONG = {
    "in_channels of another codec": (
        changed("codec", "pixel-unshuffle(factor=2)"),
        ["'network.in_channels' is 1", "set it to 4"],
    ),
    "in_channels left out": (
        changed("network/in_channels", None),
        ["'network.in_channels' is 3 by default", "set it to 1"],
    ),
    "out_channels left out": (
        changed("network/out_channels", None),
        ["'network.out_channels' is 3 by default", "set it to 1"],
    ),
    "in_channels outside the network": (changed("in_channels", 1), ["'in_channels' is unknown"]),
    "a misspelt block": (
        changed("network/down_block_types", ["DownBlok2D", "DownBlock2D"]),
        ["'network' cannot be built", "DownBlok2D"],
    ),
    "a misspelt option": (
        changed("network/layers_a_block", 1),
        ["'network' cannot be built", "layers_a_block"],
    ),
    "a misspelt class": (changed("network/class", "UNet2DModle"), ["UNet2DModel"]),
    "no class embeddings": (
        changed("network/num_class_embeds", None),
        ["'network.num_class_embeds' is missing", "set it to 3"],
    ),
    "no embedding for no label": (
        changed("network/num_class_embeds", 2),
        ["'network.num_class_embeds' is 2", "label_dropout", "set it to 3"],
    ),
    "class embeddings without labels": (
        {
            **{name: value for name, value in GOOD.items() if name != "labels"},
            "data": {"source": "tiny.parquet", "shape": [1, 8, 8]},
        },
        ["'network.num_class_embeds' is 3", "no labels"],
    ),
    "groups that do not divide the channels": (
        changed("network/norm_num_groups", 3),
        ["'network' cannot be built", "divisible"],
    ),
    "blocks of another number": (
        changed("network/block_out_channels", [8, 16, 32]),
        ["'network' cannot be built"],
    ),
    "pictures that cannot be halved": (
        changed("data/shape", [1, 7, 7]),
        ["'network' does not run on pictures of shape (1, 7, 7)"],
    ),
    "a network that is a list": (changed("network", ["UNet2DModel"]), ["'network'"]),
    "data that is a text": (changed("data", "tiny.parquet"), ["'data'"]),
    "a key that is a number": ({**GOOD, 3: 4}, ["'3' is unknown"]),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_recipe_is_one_line_that_names_the_field(run, tmp_path, data, name):
    recipe, words = WRONG[name]
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(recipe))
    status, out, err = run("train", file, "--data", data, "--out", tmp_path / "out")
    assert status == 2, err
    assert err.count("\n") == 1
    assert "fault of hasten" not in err
    assert all(word in err for word in words), err
    assert not out
    assert not (tmp_path / "out").exists()


def test_the_recipe_that_the_wrong_ones_are_made_of_trains(run, tmp_path, data):
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(GOOD))
    out = tmp_path / "out"
    status, said, err = run("train", file, "--data", data, "--out", out, "--quiet")
    assert status == 0, err
    assert str(out / "model") in said
    assert (out / "model" / "model_index.json").is_file() or (out / "model" / "unet").is_dir()


@pytest.mark.parametrize("name", ["mnist", "builtin:mnist", "recipes/mnist.yaml", "mnist.yaml"])
def test_a_shipped_recipe_is_found_by_name(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where there is no folder recipes/
    assert load_recipe(name, Recipe) == load_recipe(ROOT / "recipes" / "mnist.yaml", Recipe)


def test_every_recipe_of_the_repository_ships():
    files = {file.stem: file for file in (ROOT / "recipes").glob("*.yaml")}
    assert shipped_recipes() == files


def test_a_recipe_that_is_not_there_names_those_that_are(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, _, err = run("train", "recipes/mnits.yaml")
    assert status == 2
    assert "'recipes/mnits.yaml'" in err
    assert all(name in err for name in ("cifar10", "mnist-student", "mnist-vae"))


def test_train_without_a_recipe_lists_what_ships(run):
    status, _, err = run("train")
    assert status == 2
    assert "cifar10, cifar10-features, mnist" in err


def test_the_page_of_recipe_fields_is_the_one_that_is_printed(run):
    status, out, _ = run("train", "--fields")
    assert status == 0
    assert out == (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")


def test_every_field_of_every_recipe_is_described():
    from hasten.learning import recipe_fields

    kinds = [kind for kind, _ in recipe_fields.KINDS.values()] + [*recipe_fields.PARTS.values()]
    missing = [
        f"{kind.__name__}.{name}"
        for kind in kinds
        for name in kind.model_fields
        if not descriptions(kind).get(name)
    ]
    assert not missing
    assert "| `rate` | number, above 0 | `0.0002` | the learning rate. |" in reference()
