"""Scenes in motion: clips of which every motion, and so every optical flow, is known.

One or two objects stand still, move along an axis at a constant speed, or grow or shrink at a
constant rate. The camera stands still, and the background is the same in every frame.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import torch

from hasten.core.errors import require, require_whole
from hasten.data.shapes.drawing import coverage
from hasten.data.shapes.scenes import GAP, RADII, SIZE, TRIES, Scene, Thing, single

DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
MOTIONS = ("still", *DIRECTIONS, "grows", "shrinks")
FRAMES = 8
TRAVEL = (8.0, 20.0)  # pixels from the first frame to the last
GROWTH = (1.35, 1.8)  # ratio of the radii in the first and the last frame
BOUNDS = RADII["small"] * 0.94, RADII["large"] * 1.06  # pixels; radii of scenes lie within them
TWO = 0.5  # how often there are two objects
MOVING = 2  # keeps the numbers that draw moving scenes apart from those of scenes

Array = np.ndarray
Path = tuple[Thing, Thing]
"""An object in the first and in the last frame."""
_DOWN, _ACROSS = np.mgrid[0:SIZE, 0:SIZE] + 0.5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Motion:
    """How an object moves.

    Attributes:
        name: one of :data:`MOTIONS`.
        x, y: its velocity to the right and down, in pixels a frame.
        growth: of its radius, in pixels a frame.
    """

    name: str
    x: float = 0.0
    y: float = 0.0
    growth: float = 0.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class MovingScene:
    """A scene whose objects move.

    Attributes:
        scene: the first frame.
        motions: one for each object.
        frames: how many there are.
    """

    scene: Scene
    motions: tuple[Motion, ...]
    frames: int

    def things(self, frame: int) -> tuple[Thing, ...]:
        """The objects in ``frame``; ``size`` is the name that is nearest to their radius there.

        Raises:
            UserError: there is no such frame.
        """
        require_whole("frame", frame, 0, self.frames - 1)
        pairs = zip(self.scene.things, self.motions, strict=True)
        return tuple(_after(thing, motion, frame) for thing, motion in pairs)


def moving_scene(seed: int, number: int, frames: int = FRAMES) -> MovingScene:
    """Moving scene ``number`` of ``seed``: the same motion in any number of ``frames``.

    No object leaves the picture or touches another in any frame. Looks, sizes and backgrounds are
    those of :func:`hasten.data.shapes.scenes.single`.

    Raises:
        UserError: fewer than two frames.
    """
    require_whole("frames", frames, 2, 100_000)
    rng = np.random.default_rng((seed, number, MOVING))
    count = 1 + int(rng.random() < TWO)
    while True:
        scenes = [single(int(rng.integers(1 << 31)), 0) for _ in range(count)]
        things = [scene.things[0] for scene in scenes]
        if len({(thing.shape, thing.colour) for thing in things}) < count:
            continue
        names = [_motion_for(rng, thing) for thing in things]
        for _ in range(TRIES):
            paths = [_path(rng, thing, name) for thing, name in zip(things, names, strict=True)]
            if count == 1 or _apart(*paths):
                scene = dataclasses.replace(scenes[0], things=tuple(first for first, _ in paths))
                pairs = zip(names, paths, strict=True)
                motions = tuple(_motion(name, path, frames - 1) for name, path in pairs)
                return MovingScene(scene=scene, motions=motions, frames=frames)


def _motion_for(rng: np.random.Generator, thing: Thing) -> str:
    """A motion that the size of ``thing`` leaves room for."""
    excluded = {"small": "shrinks", "large": "grows"}.get(thing.size)
    names = [name for name in MOTIONS if name != excluded]
    return names[int(rng.integers(len(names)))]


def _path(rng: np.random.Generator, thing: Thing, name: str) -> Path:
    """``thing`` at a random place from which this motion stays within the picture."""
    end = dataclasses.replace(thing, radius=_last_radius(rng, thing.radius, name))
    margin = max(thing.reach, end.reach) + 1.0
    travel = float(rng.uniform(TRAVEL[0], min(TRAVEL[1], SIZE - 2 * margin)))
    across, down = (travel * sign for sign in DIRECTIONS.get(name, (0, 0)))
    x, y = (
        float(rng.uniform(margin, SIZE - margin - abs(way))) - min(way, 0.0)
        for way in (across, down)
    )
    first = dataclasses.replace(thing, x=x, y=y)
    return first, dataclasses.replace(end, x=x + across, y=y + down)


def _last_radius(rng: np.random.Generator, radius: float, name: str) -> float:
    if name not in ("grows", "shrinks"):
        return radius
    low, high = BOUNDS
    most = high / radius if name == "grows" else radius / low
    ratio = float(rng.uniform(GROWTH[0], min(GROWTH[1], most)))
    return radius * ratio if name == "grows" else radius / ratio


def _apart(a: Path, b: Path) -> bool:
    """Whether two objects leave a gap between them all the way, even at their largest."""
    starts, ends = (np.array([p.x - q.x, p.y - q.y]) for p, q in zip(a, b, strict=True))
    way = ends - starts
    nearest = np.clip(-(starts @ way) / max(way @ way, 1e-9), 0, 1)  # a share of the way
    distance = np.linalg.norm(starts + nearest * way)
    reach = max(thing.reach for thing in a) + max(thing.reach for thing in b)
    return bool(distance >= reach + GAP)


def _motion(name: str, path: Path, steps: int) -> Motion:
    first, last = path
    return Motion(
        name=name,
        x=(last.x - first.x) / steps,
        y=(last.y - first.y) / steps,
        growth=(last.radius - first.radius) / steps,
    )


def _after(thing: Thing, motion: Motion, frames: int) -> Thing:
    """``thing`` some ``frames`` later."""
    radius = thing.radius + frames * motion.growth
    return dataclasses.replace(
        thing,
        x=thing.x + frames * motion.x,
        y=thing.y + frames * motion.y,
        radius=radius,
        size=nearest_size(radius) if motion.growth else thing.size,
    )


def nearest_size(radius: float) -> str:
    """The name of the size that is nearest to ``radius``, by ratio."""
    return min(RADII, key=lambda name: abs(math.log(radius / RADII[name])))


def frames(moving: MovingScene) -> list[Scene]:
    """Every frame of ``moving``, to be drawn by :func:`hasten.data.shapes.drawing.drawn`."""
    return [
        dataclasses.replace(moving.scene, things=moving.things(frame))
        for frame in range(moving.frames)
    ]


def object_mask(moving: MovingScene, frame: int, number: int | None = None) -> torch.Tensor:
    """The pixels (h, w) that objects cover in ``frame``, soft edges included; those of object
    ``number`` alone where that is given.

    Raises:
        UserError: there is no such frame or object.
    """
    things = moving.things(frame)
    if number is not None:
        require_whole("number", number, 0, len(things) - 1)
        things = things[number : number + 1]
    return torch.from_numpy(np.any([coverage(thing) > 0 for thing in things], axis=0))


def unchanged(moving: MovingScene) -> torch.Tensor:
    """The pixels (h, w) that are the same in every frame: no object that moves ever covers any part
    of them."""
    moved = torch.zeros(SIZE, SIZE, dtype=torch.bool)
    for number, motion in enumerate(moving.motions):
        if motion.name != "still":
            for frame in range(moving.frames):
                moved |= object_mask(moving, frame, number)
    return ~moved


def flow(moving: MovingScene, frame: int) -> torch.Tensor:
    """The optical flow (2, h, w) from ``frame`` to the next: how many pixels what is seen at each
    pixel moves to the right and down. Zero for the background; exact for objects, growth included.

    Raises:
        UserError: there is no such frame, or none after it.
    """
    _require_next(moving, frame)
    out = np.zeros((2, SIZE, SIZE), np.float32)
    for thing, motion in zip(moving.things(frame), moving.motions, strict=True):
        rate = motion.growth / thing.radius
        ways = motion.x + rate * (_ACROSS - thing.x), motion.y + rate * (_DOWN - thing.y)
        out = np.where(coverage(thing) > 0, np.stack(ways).astype(np.float32), out)
    return torch.from_numpy(out)


def occlusion(moving: MovingScene, frame: int) -> torch.Tensor:
    """The pixels (h, w) of ``frame`` that cannot be compared with the next frame along the flow:
    background that an object covers there, and soft edges, in ``frame`` or where the flow leads.

    What an object uncovers is seen in the next frame alone; the pixel of ``frame`` over it shows
    the object, is followed with it, and stays comparable.

    Raises:
        UserError: there is no such frame, or none after it.
    """
    _require_next(moving, frame)
    ways = flow(moving, frame).numpy()
    comparable = ~(object_mask(moving, frame) | object_mask(moving, frame + 1)).numpy()
    # Sampling between pixels reads the four around a place, whose number is its centre less half.
    across = np.floor(_ACROSS - 0.5 + ways[0]).astype(int)
    down = np.floor(_DOWN - 0.5 + ways[1]).astype(int)
    for now, then in zip(moving.things(frame), moving.things(frame + 1), strict=True):
        whole = coverage(then) >= 1
        read = [
            whole[np.clip(down + i, 0, SIZE - 1), np.clip(across + j, 0, SIZE - 1)]
            for i in (0, 1)
            for j in (0, 1)
        ]
        comparable |= (coverage(now) >= 1) & np.all(read, axis=0)
    return torch.from_numpy(~comparable)


def _require_next(moving: MovingScene, frame: int) -> None:
    require_whole("frame", frame, 0, moving.frames - 1)
    require(
        frame < moving.frames - 1,
        f"frame is {frame}, the last; flow leads to the next frame, so take one before it.",
    )
