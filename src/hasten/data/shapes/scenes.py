"""What a scene shows: one to three objects, their relation, a background; or a crowd of objects.

Scene ``number`` of a seed is always the same, so data sets of scenes need no files.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import TypedDict

import numpy as np

SIZE = 64  # pixels, both ways
SHAPES = ("circle", "square", "triangle", "star", "ring", "cross")
COLOURS = {
    "red": (214, 40, 40),
    "orange": (245, 138, 18),
    "yellow": (248, 221, 40),
    "green": (42, 157, 62),
    "cyan": (38, 198, 210),
    "blue": (38, 70, 214),
    "purple": (128, 44, 178),
    "pink": (246, 106, 176),
}
RADII = {"small": 6.5, "medium": 9.8, "large": 14.7}  # pixels, of the circle of the same area
BACKGROUNDS = ("plain", "gradient", "striped", "checkered", "grainy")
RELATIONS = ("left of", "right of", "above", "below", "inside")
HOLLOW = {"circle": 1.0, "square": 0.886}  # what another object can be inside, and how deep
GAP = 2.5  # pixels between objects
MARGIN = 3.0  # pixels by which a relation holds
TRIES = 50  # at placing objects, before others are chosen
CROWD = 24  # objects that are tried in a crowd; about five find room
SINGLE = 1  # keeps the numbers that draw single objects apart from those of scenes
CROWDED = {"small": 0.5, "medium": 0.1, "large": 0.4}  # how often each size is tried in one
KINDS = {"one": 0.3, "count": 0.12, "relation": 0.38, "two": 0.1, "three": 0.1}  # how often
HARD = {"inside": 0.6, "three": 0.4}  # how often each, among the scenes that are hard to learn


@dataclasses.dataclass(frozen=True, kw_only=True)
class Thing:
    """An object of a scene.

    Attributes:
        shape, colour, size: by name.
        x, y: its centre in pixels, from the left and from the top.
        radius: in pixels, of the circle of the same area.
    """

    shape: str
    colour: str
    size: str
    x: float = 0.0
    y: float = 0.0
    radius: float = 0.0

    @property
    def look(self) -> tuple[str, str, str]:
        return self.size, self.colour, self.shape

    @property
    def reach(self) -> float:
        """From the centre to the farthest point, in pixels."""
        return self.radius * REACH[self.shape]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scene:
    """What is drawn.

    Attributes:
        things: one to three objects, or a crowd; of a relation, the first is ``relation`` the
            second.
        relation: of the first to the second, or None.
        background, grey, tint, angle: its kind, how light it is (0 to 255), the difference of each
            channel from it, and the direction of its pattern in radians.
        seed: of its grain.
    """

    things: tuple[Thing, ...]
    relation: str | None = None
    background: str = "plain"
    grey: float = 200.0
    tint: tuple[float, float, float] = (0.0, 0.0, 0.0)
    angle: float = 0.0
    seed: int = 0

    @property
    def counted(self) -> bool:
        """Whether all of several objects look the same."""
        return len(self.things) > 1 and len({thing.look for thing in self.things}) == 1


# From the centre to the farthest point, for the area of the unit circle.
REACH = {
    "circle": 1.0,
    "square": math.sqrt(math.pi / 2),
    "triangle": math.sqrt(4 * math.pi / (3 * math.sqrt(3))),
    "star": math.sqrt(math.pi / (5 * 0.45 * math.sin(math.pi / 5))),
    "ring": 1.0 / math.sqrt(0.75),
    "cross": math.sqrt(math.pi / 2),
}


def scene(seed: int, number: int, kinds: Mapping[str, float] = KINDS) -> Scene:
    """Scene ``number`` of ``seed``, of a kind that ``kinds`` says how often to draw."""
    rng = np.random.default_rng((seed, number))
    kind = str(rng.choice(list(kinds), p=list(kinds.values())))
    relation = _one(rng, RELATIONS) if kind == "relation" else None
    if kind == "inside":
        kind, relation = "relation", "inside"
    things = None
    while things is None:
        looks = _looks_of(rng, kind, relation)
        tries = (_in_place(rng, looks, relation) for _ in range(TRIES))
        things = next((placed for placed in tries if placed is not None), None)
    return Scene(things=things, relation=relation, **_ground(rng))


def single(seed: int, number: int) -> Scene:
    """A scene of one object."""
    rng = np.random.default_rng((seed, number, SINGLE))
    (thing,) = _looks(rng, 1)
    return Scene(things=(_somewhere(rng, _sized(rng, thing)),), **_ground(rng))


def crowd(seed: int, number: int) -> Scene:
    """Crowd ``number`` of ``seed``: as many objects as find room, most of them small, and a small
    one in every large one. An autoencoder sees more of what is hard to keep in it than in a
    scene."""
    rng, things, outer = np.random.default_rng((seed, number, CROWD)), [], []
    for size in rng.choice(list(CROWDED), CROWD, p=list(CROWDED.values())).tolist():
        thing, inner = _looks(rng, 2)
        shape = _one(rng, tuple(HOLLOW)) if size == "large" else thing.shape
        thing = dataclasses.replace(thing, shape=shape, size=size)
        thing = _somewhere(rng, _sized(rng, thing))
        if not all(_apart(thing, other) for other in outer):
            continue
        outer.append(thing)
        things.append(thing)
        if size == "large" and inner.colour != thing.colour:
            small = _sized(rng, dataclasses.replace(inner, size="small"))
            things.append(_within(rng, small, thing))
    return Scene(things=tuple(things), **_ground(rng))


class Ground(TypedDict):
    """The fields of a scene that are not about its objects."""

    background: str
    grey: float
    tint: tuple[float, float, float]
    angle: float
    seed: int


def _ground(rng: np.random.Generator) -> Ground:
    """The fields of a scene that are not about its objects."""
    red, green, blue = rng.uniform(-9, 9, 3).tolist()
    return {
        "background": _one(rng, BACKGROUNDS),
        "grey": float(rng.uniform(25, 235)),
        "tint": (red, green, blue),
        "angle": float(rng.uniform(0, math.pi)),
        "seed": int(rng.integers(1 << 31)),
    }


def _one(rng: np.random.Generator, names: Sequence[str]) -> str:
    return names[int(rng.integers(len(names)))]


def _looks_of(rng: np.random.Generator, kind: str, relation: str | None) -> tuple[Thing, ...]:
    """The objects of a scene of this kind, without places."""
    if kind == "count":
        return _looks(rng, 1) * int(rng.integers(2, 4))
    looks = _looks(rng, {"one": 1, "three": 3}.get(kind, 2))
    while relation == "inside" and looks[0].colour == looks[1].colour:
        looks = _looks(rng, 2)
    if relation == "inside":
        inner, outer = looks
        outer = dataclasses.replace(outer, shape=_one(rng, tuple(HOLLOW)), size="large")
        return dataclasses.replace(inner, size="small"), outer
    return looks


def _looks(rng: np.random.Generator, count: int) -> tuple[Thing, ...]:
    """Objects of which no two have both shape and colour in common."""
    things: list[Thing] = []
    while len(things) < count:
        thing = Thing(
            shape=_one(rng, SHAPES), colour=_one(rng, tuple(COLOURS)), size=_one(rng, tuple(RADII))
        )
        if (thing.shape, thing.colour) not in [(other.shape, other.colour) for other in things]:
            things.append(thing)
    return tuple(things)


def _in_place(
    rng: np.random.Generator, looks: tuple[Thing, ...], relation: str | None
) -> tuple[Thing, ...] | None:
    """``looks`` with places where they do not touch, None where a try did not succeed."""
    sized = [_sized(rng, thing) for thing in looks]
    if relation == "inside":
        inner, outer = sized
        outer = _somewhere(rng, outer)
        return _within(rng, inner, outer), outer
    things = tuple(_somewhere(rng, thing) for thing in sized)
    apart = all(_apart(a, b) for a, b in itertools.combinations(things, 2))
    holds = relation is None or related(things[0], things[1], relation, MARGIN)
    return things if apart and holds else None


def _sized(rng: np.random.Generator, thing: Thing) -> Thing:
    """``thing`` with a radius that its size allows."""
    return dataclasses.replace(thing, radius=RADII[thing.size] * float(rng.uniform(0.94, 1.06)))


def _apart(a: Thing, b: Thing) -> bool:
    """Whether two objects leave a gap between them."""
    return math.hypot(a.x - b.x, a.y - b.y) >= a.reach + b.reach + GAP


def _within(rng: np.random.Generator, inner: Thing, outer: Thing) -> Thing:
    """``inner`` with a place inside ``outer``, near its middle."""
    hollow = outer.radius * HOLLOW[outer.shape]
    inner = dataclasses.replace(inner, radius=min(inner.radius, (hollow - 1.0) * 0.62))
    shift = rng.normal(size=2)
    room = max(0.0, hollow - inner.reach - 1.0)
    shift *= min(room, 2.0) * rng.uniform() / np.linalg.norm(shift)
    return dataclasses.replace(inner, x=outer.x + float(shift[0]), y=outer.y + float(shift[1]))


def _somewhere(rng: np.random.Generator, thing: Thing) -> Thing:
    margin = min(thing.reach + 1.0, SIZE / 2 - 1)
    x, y = rng.uniform(margin, SIZE - margin, 2)
    return dataclasses.replace(thing, x=float(x), y=float(y))


def related(first: Thing, second: Thing, relation: str, margin: float = 0.0) -> bool:
    """Whether ``first`` is ``relation`` ``second``: for the four directions, nearer to that one
    than to any other, by ``margin`` pixels."""
    across, down = first.x - second.x, first.y - second.y
    within = math.hypot(across, down) < second.radius / 2 and first.radius < second.radius
    if within or relation == "inside":
        return within and relation == "inside"
    ahead, aside = {
        "left of": (-across, down),
        "right of": (across, down),
        "above": (-down, across),
        "below": (down, across),
    }[relation]
    return ahead > abs(aside) + margin
