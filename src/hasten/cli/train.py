"""``hasten train``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hasten.cli.options import Flag, Minutes, Quiet


def train(
    recipe: str | None = None,
    *,
    fields: Flag = False,
    data: str | None = None,
    test_data: str | None = None,
    out: Path | None = None,
    pictures: int | None = None,
    minutes: Minutes = None,
    seed: int | None = None,
    track: str | None = None,
    quiet: Quiet = False,
) -> None:
    """Train a model from a recipe; a second run with the same --out resumes the first.

    Args:
        recipe: a YAML file, or the name of a recipe that ships with hasten, such as mnist.
        fields: list the fields of a recipe, and the recipes that ship, instead of training.
        data: a parquet file, a folder of pictures, or a hub name, in place of the recipe's.
        test_data: the same for the pictures that a classifier is tested on.
        out: the folder to write, runs/NAME by default.
        pictures: how many pictures to see, in place of the recipe's.
        seed: in place of the recipe's.
        track: none, tensorboard or trackio.
    """
    from hasten.core.errors import UserError
    from hasten.learning.recipe_fields import KINDS, reference
    from hasten.training.recipe import load_recipe
    from hasten.training.shipped import shipped_recipes
    from hasten.training.train import train as run

    if fields:
        print(reference(), end="")
        return
    if recipe is None:
        shipped = ", ".join(sorted(shipped_recipes()))
        raise UserError(f"recipe is missing; give a YAML file or a shipped recipe: {shipped}.")
    changes: dict[str, Any] = {"data__source": data, "test__source": test_data}
    changes |= {"pictures": pictures, "seed": seed, "track": track}
    kinds = [kind for kind, _ in reversed(KINDS.values())]  # a student's takes any objective
    loaded = load_recipe(recipe, *kinds, **changes)
    folder = run(loaded, out or Path("runs") / loaded.name, minutes=minutes, quiet=quiet)
    print(f"wrote {folder}")
