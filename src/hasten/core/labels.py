"""Class labels as people give them: a number, a name, several of either, or an array."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Iterable, Sequence
from typing import Any

from hasten.core.errors import UserError, nearest, require, require_whole


def whole_labels(condition: Any, n: int, classes: int, names: Sequence[str] = ()) -> list[int]:
    """``n`` labels, 0 to ``classes - 1``, from one label for all or from ``n`` of them.

    Args:
        condition: a whole number or the name of a class, or a list, tuple, array or tensor of
            ``n``.
        names: of the classes, () where they have none.

    Raises:
        UserError: a label that is no class, or another number of labels than ``n``.
    """
    listed = condition.tolist() if hasattr(condition, "tolist") else condition  # numpy and torch
    several = isinstance(listed, Iterable) and not isinstance(listed, (str, bytes))
    labels = [_label(each, classes, names) for each in (listed if several else [listed])]
    if not several:
        labels *= n
    require(
        len(labels) == n,
        f"condition has {len(labels)} label{'s' * (len(labels) != 1)} for {n} "
        f"picture{'s' * (n != 1)}; give one label, or a list of {n}.",
    )
    return labels


def labels_in_turn(
    text: str | None, n: int, classes: int | None, names: Sequence[str] = ()
) -> list[int] | None:
    """``n`` labels from a command line's text: ``3``, ``0,1,2`` (taken in turn), or a class's
    name; every class in turn without text, and None for a model without classes.

    Raises:
        UserError: the model has no classes, or the text names none of them.
    """
    if classes is None:
        require(text is None, f"condition is {text!r}, but this model has no labels; drop it.")
        return None
    if text is None:
        labels = list(range(classes))
    elif text in names:
        labels = [names.index(text)]
    else:
        labels = [_label(_number(piece), classes, names) for piece in text.split(",")]
    return list(itertools.islice(itertools.cycle(labels), n))


def _label(label: Any, classes: int, names: Sequence[str]) -> int:
    if isinstance(label, str):
        if not names:
            raise UserError(
                f"condition is {label!r}, but the classes of this model have no names; give a "
                f"whole number from 0 to {classes - 1}, or a list of them."
            )
        require(label in names, f"condition is {label!r}. {nearest(label, names)}")
        return names.index(label)
    is_index = hasattr(label, "__index__") and not isinstance(label, bool)
    number = operator.index(label) if is_index else label
    require_whole("condition", number, 0, classes - 1)
    return number


def _number(piece: str) -> int | str:
    piece = piece.strip()
    return int(piece) if piece.removeprefix("-").isdecimal() else piece
