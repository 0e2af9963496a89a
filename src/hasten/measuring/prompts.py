"""Prompt accuracy: whether a picture of drawn shapes shows what its prompt asks.

No judge model is needed. Backgrounds are nearly grey and objects are not, so pixels are told apart
by their hue; every connected part is compared with each shape, drawn at its place and size.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
import torch

from hasten.core.connected import connected
from hasten.core.errors import UserError, require
from hasten.core.model import Model
from hasten.core.report import Estimate
from hasten.data.shapes.captions import Asked, Wanted, asked
from hasten.data.shapes.drawing import coverage
from hasten.data.shapes.scenes import COLOURS, RADII, REACH, SHAPES, SIZE, Thing, related
from hasten.measuring.precision_recall import wilson

COVERED = 0.5  # the share of a pixel from which on it is counted as an object's
GREY = 0.09  # saturation (largest less smallest channel) below which nothing is an object
SMALLEST = 20  # pixels of an object
ALIKE = 0.7  # intersection over union of a part and the shape that it is taken for
HALF_WIDTH = {"triangle": 0.87, "star": 0.95, "cross": 1.0 / math.sqrt(10) * 3}  # of the reach
HALF_WIDTH |= {"square": 1 / math.sqrt(2), "circle": 1.0, "ring": 1.0}

Array = np.ndarray


@dataclasses.dataclass(frozen=True, kw_only=True)
class Verdict:
    """Whether a picture shows what was asked.

    Attributes:
        met: all of it, and nothing else.
        parts: for each of count, shape, colour, size and relation that was asked for, whether it
            is as asked.
    """

    met: bool
    parts: dict[str, bool]


@dataclasses.dataclass(frozen=True, kw_only=True)
class PromptAccuracy:
    """The share of ``n`` pictures that show what their prompts ask, with its 95% interval; and of
    each part, among the prompts that ask for it."""

    share: Estimate
    n: int
    parts: dict[str, float]


def checked_prompts(model: Model, n: int) -> list[str]:
    """The prompts of ``n`` pictures of ``model``, labels in turn; none where its pictures or
    prompts are others than those of drawn shapes."""
    if not model.prompts or model.picture_shape != (3, SIZE, SIZE):
        return []
    try:
        for prompt in model.prompts:
            asked(prompt)
    except UserError:
        return []
    return [model.prompts[number % len(model.prompts)] for number in range(n)]


def prompt_accuracy(pictures: torch.Tensor, prompts: Sequence[str]) -> PromptAccuracy:
    """How many of ``pictures`` (n, 3, 64, 64) in [0, 1] show what their ``prompts`` ask.

    Raises:
        UserError: a prompt that the grammar does not read, or not as many as pictures.
    """
    require(
        len(pictures) == len(prompts) > 0,
        f"there are {len(prompts)} prompts for {len(pictures)} pictures; give one a picture.",
    )
    verdicts = [
        judged(shown, asked(prompt)) for shown, prompt in zip(found(pictures), prompts, strict=True)
    ]
    names = dict.fromkeys(name for verdict in verdicts for name in verdict.parts)
    parts = {
        name: float(np.mean([v.parts[name] for v in verdicts if name in v.parts])) for name in names
    }
    met = wilson(sum(verdict.met for verdict in verdicts), len(verdicts))
    return PromptAccuracy(share=met, n=len(verdicts), parts=parts)


def judged(shown: Sequence[Thing], wanted: Asked) -> Verdict:
    """Whether the objects of a picture are what was asked for, in some order."""
    orders = [order for order in _orders(shown, wanted) if _all_met(wanted.things, order)]
    relation = wanted.relation
    holds = relation is None or any(related(order[0], order[1], relation) for order in orders)
    parts = {"count": len(shown) == len(wanted.things)}
    for name in ("shape", "colour", "size"):
        asks = Counter(getattr(want, name) for want in wanted.things)
        del asks[None]
        if asks:
            parts[name] = asks <= Counter(getattr(thing, name) for thing in shown)
    if relation is not None:
        parts["relation"] = bool(orders) and holds
    return Verdict(met=bool(orders) and holds, parts=parts)


def _orders(shown: Sequence[Thing], wanted: Asked) -> Iterable[tuple[Thing, ...]]:
    return itertools.permutations(shown) if len(shown) == len(wanted.things) else ()


def _all_met(wanted: Sequence[Wanted], things: Sequence[Thing]) -> bool:
    return all(want.is_met(thing) for want, thing in zip(wanted, things, strict=True))


def found(pictures: torch.Tensor) -> list[list[Thing]]:
    """The objects of each of ``pictures`` (n, 3, 64, 64) in [0, 1]; a part that is like no shape is
    an object of the shape ``""``."""
    require(
        tuple(pictures.shape[1:]) == (3, SIZE, SIZE),
        f"pictures are {tuple(pictures.shape[1:])}; drawn shapes are (3, {SIZE}, {SIZE}).",
    )
    colours = _colours(pictures.float())  # (n, h, w), 0 for the background
    masks = (colours[:, None] == torch.arange(1, len(COLOURS) + 1).view(-1, 1, 1)).numpy()
    parts, some = np.zeros(masks.shape, np.int32), masks.any((2, 3))
    parts[some] = connected(masks[some])
    return [_things(labels) for labels in parts]


def _colours(pictures: torch.Tensor) -> torch.Tensor:
    """The number of the object's colour at each pixel, from 1; 0 where there is none."""
    palette = torch.tensor(list(COLOURS.values()), dtype=torch.float32) / 255
    chroma = palette - palette.mean(1, keepdim=True)
    seen = pictures - pictures.mean(1, keepdim=True)
    along = torch.einsum("nchw,kc->nkhw", seen, chroma)
    alike = along / (chroma.norm(dim=1).view(-1, 1, 1) * seen.norm(dim=1, keepdim=True) + 1e-6)
    nearest = alike.argmax(1)
    # How much of the pixel has that colour, where the rest of it is grey.
    share = (along / chroma.square().sum(1).view(-1, 1, 1)).gather(1, nearest[:, None])[:, 0]
    saturation = pictures.amax(1) - pictures.amin(1)
    return torch.where((share > COVERED) & (saturation > GREY), nearest + 1, 0)


def _things(labels: Array) -> list[Thing]:
    """The objects of one picture, from the parts of each colour (colours, h, w)."""
    parts = [
        (colour, labels[number] == part)
        for number, colour in enumerate(COLOURS)
        for part in np.unique(labels[number])
        if part != 0
    ]
    parts = [(colour, mask) for colour, mask in parts if _solid(mask)]
    parts = [part for part in parts if not any(_shows_through(part, other) for other in parts)]
    out = []
    for colour, mask in parts:
        smaller = [other for _, other in parts if other.sum() < mask.sum()]
        hidden = np.any(smaller, axis=0) if smaller else np.zeros_like(mask)
        out.append(_thing(colour, mask, ~_wider(hidden)))
    return out


def _shows_through(part: tuple[str, Array], other: tuple[str, Array]) -> bool:
    """Whether ``part`` is a piece of the larger ``other`` that shows through a ring on it."""
    (colour, mask), (its, around) = part, other
    if colour != its or mask.sum() >= around.sum():
        return False
    (top, bottom, left, right), (up, down, west, east) = _box(mask), _box(around)
    return up <= top and bottom <= down and west <= left and right <= east


def _box(mask: Array) -> tuple[int, int, int, int]:
    """The first and last row, and the first and last column, of a mask."""
    down, across = np.nonzero(mask)
    return int(down.min()), int(down.max()), int(across.min()), int(across.max())


def _solid(mask: Array) -> bool:
    """Whether a part is an object, not the mixed edge of two."""
    inner = mask[1:-1, 1:-1] & mask[:-2, 1:-1] & mask[2:, 1:-1] & mask[1:-1, :-2] & mask[1:-1, 2:]
    return bool(mask.sum() >= SMALLEST and inner.sum() >= 3)


def _thing(colour: str, mask: Array, seen: Array) -> Thing:
    """What the part ``mask`` (h, w) is, by the pixels ``seen``: objects on it hide the others."""
    down, across = np.nonzero(mask)
    x, y = float(across.mean()) + 0.5, float(down.mean()) + 0.5
    top, bottom, left, right = _box(mask)
    half = (max(bottom - top, right - left) + 1) / 2
    best, shape, radius = -1.0, "", math.sqrt(mask.sum() / math.pi)
    for name in SHAPES:
        wide = half / (REACH[name] * HALF_WIDTH[name])
        for size in (math.sqrt(mask.sum() / math.pi), wide):
            drawn = coverage(Thing(shape=name, colour=colour, size="", x=x, y=y, radius=size))
            both = np.minimum(drawn, mask)[seen].sum()
            either = np.maximum(drawn, mask)[seen].sum()
            if both / max(either, 1e-6) > best:
                best, shape, radius = both / max(either, 1e-6), name, size
    size = min(RADII, key=lambda name: abs(math.log(radius / RADII[name])))
    shape = shape if best >= ALIKE else ""
    return Thing(shape=shape, colour=colour, size=size, x=x, y=y, radius=radius)


def _wider(mask: Array) -> Array:
    """``mask`` with the pixels next to it."""
    out = mask.copy()
    out[1:] |= mask[:-1]
    out[:-1] |= mask[1:]
    out[:, 1:] |= mask[:, :-1]
    out[:, :-1] |= mask[:, 1:]
    return out
