"""Scenes as pictures, with edges one pixel soft."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

from hasten.data.shapes.scenes import COLOURS, SIZE, Scene, Thing

Array = np.ndarray
_DOWN, _ACROSS = np.mgrid[0:SIZE, 0:SIZE].astype(np.float32) + 0.5


def drawn(scenes: Sequence[Scene]) -> torch.Tensor:
    """``scenes`` as uint8 (n, 3, 64, 64)."""
    pictures = np.stack([picture(scene) for scene in scenes])
    return torch.from_numpy(np.round(pictures).astype(np.uint8))


def picture(scene: Scene) -> Array:
    """``scene`` as float32 (3, 64, 64) from 0 to 255."""
    canvas = backdrop(scene)
    for thing in sorted(scene.things, key=lambda thing: -thing.radius):  # what is inside comes last
        colour = np.asarray(COLOURS[thing.colour], np.float32)[:, None, None]
        window = _window(thing)
        part = canvas[:, *window]
        part += coverage(thing, window) * (colour - part)
    return canvas


Window = tuple[slice, slice]
_WHOLE: Window = (slice(None), slice(None))


def coverage(thing: Thing, window: Window = _WHOLE) -> Array:
    """How much ``thing`` covers of each pixel in these rows and columns, from 0 to 1."""
    x, y = _ACROSS[window] - thing.x, _DOWN[window] - thing.y
    return np.clip(0.5 - distance(thing.shape, x, y, thing.radius), 0, 1)


def _window(thing: Thing) -> Window:
    """The rows and columns beyond which ``thing`` covers nothing: the soft tip of a star lies a
    pixel farther out than a soft edge."""
    reach = thing.reach + 2

    def along(middle: float) -> slice:
        return slice(max(0, math.floor(middle - reach)), min(SIZE, math.ceil(middle + reach)))

    return along(thing.y), along(thing.x)


def distance(shape: str, x: Array, y: Array, radius: float) -> Array:
    """The signed distance of the points (x, y) from a shape around the origin that has the area of
    a circle of ``radius``; negative inside, exact on the edge."""
    return _SHAPES[shape](x, y, radius)


def _circle(x: Array, y: Array, radius: float) -> Array:
    return np.hypot(x, y) - radius


def _square(x: Array, y: Array, radius: float) -> Array:
    side = radius * math.sqrt(math.pi) / 2
    return np.maximum(abs(x), abs(y)) - side


def _triangle(x: Array, y: Array, radius: float) -> Array:
    inner = radius * math.sqrt(math.pi / (3 * math.sqrt(3)))  # of the inscribed circle
    slant = math.sqrt(3) / 2 * abs(x) - 0.5 * y
    return np.maximum(slant, y) - inner


def _star(x: Array, y: Array, radius: float) -> Array:
    """Five points; the inner corners at 0.45 of the outer ones."""
    inner, points = 0.45, 5
    outer = radius * math.sqrt(math.pi / (points * inner * math.sin(math.pi / points)))
    wedge = math.pi / points
    angle = np.abs((np.arctan2(x, -y) + wedge) % (2 * wedge) - wedge)
    away = np.hypot(x, y)
    px, py = away * np.cos(angle), away * np.sin(angle)
    cx, cy = outer * inner * math.cos(wedge), outer * inner * math.sin(wedge)
    length = math.hypot(cx - outer, cy)
    return ((px - outer) * cy - py * (cx - outer)) / length


def _ring(x: Array, y: Array, radius: float) -> Array:
    outer = radius / math.sqrt(0.75)  # the hole is half as wide
    return np.abs(np.hypot(x, y) - 0.75 * outer) - 0.25 * outer


def _cross(x: Array, y: Array, radius: float) -> Array:
    arm = radius * math.sqrt(math.pi / 20)  # half the width of an arm, a third of its reach
    across = np.maximum(abs(x) - 3 * arm, abs(y) - arm)
    return np.minimum(across, np.maximum(abs(x) - arm, abs(y) - 3 * arm))


_SHAPES = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "ring": _ring,
    "cross": _cross,
}


def backdrop(scene: Scene) -> Array:
    """The background alone, float32 (3, 64, 64)."""
    along = (_ACROSS - SIZE / 2) * math.cos(scene.angle) + (_DOWN - SIZE / 2) * math.sin(
        scene.angle
    )
    pattern = {
        "plain": lambda: np.zeros_like(along),
        "gradient": lambda: along,
        "striped": lambda: 10.0 * np.sign(np.sin(along * (math.pi / 5))),
        "checkered": lambda: (
            10.0 * np.sign(np.sin(_ACROSS * math.pi / 8) * np.sin(_DOWN * math.pi / 8))
        ),
        "grainy": lambda: 7.0 * np.random.default_rng(scene.seed).normal(size=along.shape),
    }[scene.background]()
    tint = np.asarray(scene.tint, np.float32)[:, None, None]
    return np.clip(scene.grey + tint + pattern, 0, 255).astype(np.float32)
