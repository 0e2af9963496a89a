"""What stands where in a scene, as class numbers: what a text encoder can be taught to read off a
caption."""

from __future__ import annotations

import operator
from collections.abc import Sequence

import torch

from hasten.data.shapes.scenes import COLOURS, RADII, RELATIONS, SHAPES, Scene, Thing

MOST = 3  # objects of a scene
LOOK = (tuple(SHAPES), tuple(COLOURS), tuple(RADII))
CLASSES = (1 + len(RELATIONS), *[len(names) + 1 for names in LOOK] * (2 * MOST))
"""How many classes each attribute has: the relation and none; then shape, colour, size and none of
each object, from the left and then from the top."""


def layouts(scenes: Sequence[Scene]) -> torch.Tensor:
    """The class of each attribute of ``scenes``, int64 (n, len(CLASSES))."""
    return torch.tensor([_layout(scene) for scene in scenes])


def _layout(scene: Scene) -> list[int]:
    out = [0 if scene.relation is None else 1 + RELATIONS.index(scene.relation)]
    for axis in ("x", "y"):
        things = sorted(scene.things, key=operator.attrgetter(axis))
        for number in range(MOST):
            out += _look(things[number] if number < len(things) else None)
    return out


def _look(thing: Thing | None) -> list[int]:
    """Shape, colour and size; the last class of each where there is no such object."""
    if thing is None:
        return [len(names) for names in LOOK]
    values = (thing.shape, thing.colour, thing.size)
    return [names.index(value) for names, value in zip(LOOK, values, strict=True)]
