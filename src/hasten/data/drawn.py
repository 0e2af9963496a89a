"""Pictures and clips that are drawn when they are asked for: data without files, and with
captions."""

from __future__ import annotations

import dataclasses
import functools
import math
from abc import ABC, abstractmethod
from typing import ClassVar

import numpy as np
import torch

from hasten.core.codec import Shape
from hasten.core.errors import require, require_number, require_whole
from hasten.core.registry import Registry
from hasten.data.shapes.captions import caption
from hasten.data.shapes.drawing import drawn as draw
from hasten.data.shapes.motion import FRAMES, MovingScene, frames, moving_scene
from hasten.data.shapes.motion_captions import motion_caption
from hasten.data.shapes.scenes import (
    COLOURS,
    HARD,
    KINDS,
    SHAPES,
    SIZE,
    Scene,
    crowd,
    scene,
    single,
)


class Drawn(ABC):
    """Pictures uint8 (n, c, h, w), or clips (n, frames, c, h, w), by number, each with a
    caption."""

    part_name: ClassVar[str]
    shape: ClassVar[Shape]

    @property
    def labels(self) -> torch.Tensor | None:
        """The label of every picture (n,), where they have some."""
        return None

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, index: np.ndarray, /) -> torch.Tensor: ...

    @abstractmethod
    def captions(self, index: np.ndarray) -> list[str]:
        """What the pictures ``index`` show."""


drawn: Registry[Drawn] = Registry("drawn data")


def _falls(number: int, share: float) -> bool:
    """Whether picture ``number`` is one of a share of all, which is evenly spread: whatever part of
    the pictures is taken has as many."""
    return math.floor((number + 1) * share) > math.floor(number * share)


@drawn.add("shapes")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Shapes(Drawn):
    """``count`` scenes of one to three objects (:mod:`hasten.data.shapes.scenes`); a share
    ``crowded`` of them are crowds, which have no captions: for autoencoders. A share ``hard`` has
    one object inside another or three objects: what a text-to-image model learns last."""

    shape: ClassVar[Shape] = (3, SIZE, SIZE)

    count: int = 100_000
    seed: int = 0
    crowded: float = 0.0
    hard: float = 0.0

    def __post_init__(self) -> None:
        require_whole("data option count", self.count, 1, 100_000_000)
        require_whole("data option seed", self.seed, 0, 2**31)
        require_number("data option crowded", self.crowded, 0.0, 1.0)
        require_number("data option hard", self.hard, 0.0, 1.0)
        require(
            self.crowded == 0 or self.hard == 0,
            "data option hard: a share of the scenes is crowded already; set crowded or hard to 0.",
        )

    def __len__(self) -> int:
        return self.count

    def scenes(self, index: np.ndarray) -> list[Scene]:
        return [self._scene(number) for number in index.tolist()]

    def _scene(self, number: int) -> Scene:
        if _falls(number, self.crowded):
            return crowd(self.seed, number)
        return scene(self.seed, number, HARD if _falls(number, self.hard) else KINDS)

    def __getitem__(self, index: np.ndarray, /) -> torch.Tensor:
        return draw(self.scenes(index))

    def captions(self, index: np.ndarray) -> list[str]:
        """What the pictures ``index`` show, in the words of :mod:`hasten.data.shapes.captions`.

        Raises:
            UserError: crowds have no captions.
        """
        require(self.crowded == 0, "data option crowded: crowds have no captions; set it to 0.")
        scenes = zip(self.scenes(index), index.tolist(), strict=True)
        return [caption(each, self.seed, number) for each, number in scenes]


@drawn.add("objects")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Objects(Drawn):
    """``count`` scenes of one object each; its shape and colour together are its label: 48 classes,
    for classifiers."""

    shape: ClassVar[Shape] = (3, SIZE, SIZE)

    count: int = 100_000
    seed: int = 0

    def __post_init__(self) -> None:
        require_whole("data option count", self.count, 1, 100_000_000)
        require_whole("data option seed", self.seed, 0, 2**31)

    def __len__(self) -> int:
        return self.count

    def scenes(self, index: np.ndarray) -> list[Scene]:
        return [single(self.seed, number) for number in index.tolist()]

    @functools.cached_property
    def labels(self) -> torch.Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The number of its colour, plus that of its shape times as many as there are colours."""
        shapes: list[str] = list(SHAPES)
        colours = list(COLOURS)
        things = [scene.things[0] for scene in self.scenes(np.arange(self.count))]
        numbers = [
            shapes.index(thing.shape) * len(colours) + colours.index(thing.colour)
            for thing in things
        ]
        return torch.tensor(numbers)

    def __getitem__(self, index: np.ndarray, /) -> torch.Tensor:
        return draw(self.scenes(index))

    def captions(self, index: np.ndarray) -> list[str]:
        scenes = zip(self.scenes(index), index.tolist(), strict=True)
        return [caption(each, self.seed, number) for each, number in scenes]


@drawn.add("moving-shapes")
@dataclasses.dataclass(frozen=True, kw_only=True)
class MovingShapes(Drawn):
    """``count`` clips of ``frames`` frames: one or two objects that stand still, move, grow or
    shrink (:mod:`hasten.data.shapes.motion`)."""

    count: int = 100_000
    seed: int = 0
    frames: int = FRAMES

    def __post_init__(self) -> None:
        require_whole("data option count", self.count, 1, 100_000_000)
        require_whole("data option seed", self.seed, 0, 2**31)
        require_whole("data option frames", self.frames, 2, 100_000)

    @property
    def shape(self) -> Shape:  # pyright: ignore[reportIncompatibleVariableOverride]
        return (self.frames, 3, SIZE, SIZE)

    def __len__(self) -> int:
        return self.count

    def scenes(self, index: np.ndarray) -> list[MovingScene]:
        return [moving_scene(self.seed, number, self.frames) for number in index.tolist()]

    def __getitem__(self, index: np.ndarray, /) -> torch.Tensor:
        clips = [draw(frames(moving)) for moving in self.scenes(index)]
        return torch.stack(clips) if clips else torch.empty(0, *self.shape, dtype=torch.uint8)

    def captions(self, index: np.ndarray) -> list[str]:
        """What the clips ``index`` show, in the words of
        :mod:`hasten.data.shapes.motion_captions`."""
        scenes = zip(self.scenes(index), index.tolist(), strict=True)
        return [motion_caption(moving, self.seed, number) for moving, number in scenes]
