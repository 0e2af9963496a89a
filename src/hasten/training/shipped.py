"""The recipes that ship with hasten: ``recipes/`` in the repository and in the wheel."""

from __future__ import annotations

from pathlib import Path

from hasten.core.artifact import BUILTIN
from hasten.core.errors import UserError

PACKAGE = Path(__file__).parents[1]
PLACES = (PACKAGE / "recipes", PACKAGE.parents[1] / "recipes")  # in a wheel; in the repository


def shipped_recipes() -> dict[str, Path]:
    """The file of each shipped recipe, by its name."""
    folder = next((place for place in PLACES if place.is_dir()), None)
    return {} if folder is None else {file.stem: file for file in sorted(folder.glob("*.yaml"))}


def recipe_file(name: str | Path) -> Path:
    """The file that ``name`` stands for: a file's path, or a shipped recipe's name, with or without
    ``builtin:``, ``recipes/`` or ``.yaml``.

    Raises:
        UserError: there is neither; the message lists the recipes that ship.
    """
    file = Path(name)
    if file.is_file():
        return file
    shipped = shipped_recipes()
    plain = str(name).removeprefix(BUILTIN).removeprefix("recipes/").removesuffix(".yaml")
    if plain in shipped:
        return shipped[plain]
    raise UserError(
        f"recipe {str(name)!r} is no file and no recipe that ships with hasten. "
        f"Shipped: {', '.join(shipped) or 'none'}."
    )
