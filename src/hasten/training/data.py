"""The pictures that a recipe names."""

from __future__ import annotations

from hasten.core.errors import require
from hasten.data.drawn import Drawn, drawn
from hasten.data.rows import Pictures, load_rows
from hasten.training.recipe import Data


def pictures_of(data: Data) -> Pictures | Drawn:
    """The pictures of ``data``: from files or the hub, or drawn.

    Raises:
        UserError: they cannot be read, or have another shape.
    """
    if data.source.partition("(")[0] in drawn:
        made = drawn.parse(data.source)
        require(
            data.shape == made.shape[-3:],
            f"recipe field 'data.shape' is {data.shape}, and {data.source} draws "
            f"{made.shape[-3:]}; set it to that.",
        )
        return made
    rows = load_rows(data.source, data.split)
    return Pictures(rows, data.shape, data.image, data.label, data.caption)
