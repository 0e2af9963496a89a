"""Start from any generator of pictures: a folder of them, or a function of the caller's."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from hasten.core.codec import Shape
from hasten.core.condition import Condition
from hasten.core.errors import UserError, nearest, require
from hasten.core.level import Level
from hasten.core.model import Model
from hasten.core.start import Begin, LatentsOf, starts
from hasten.starts.early import Early, noised, second, streams

OFFERED = "offered:"
FEWEST = 10  # pictures of a folder; from fewer, every sample would look alike
SLACK = 1e-3
SUFFIXES = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")

Make = Callable[[torch.Tensor, torch.Tensor | None], torch.Tensor]
"""Standard normal noise (n, *model.shape), labels (n,) or None; pictures (n, c, h, w) in [0, 1]."""

_offered: dict[str, Make] = {}


def offer(name: str, make: Make) -> None:
    """Let plans of this process name ``make`` (a module or function) as ``offered:NAME``.

    A picture must depend on its own row of the noise alone; a name given again is replaced.
    """
    require(callable(make), f"offer was given a {type(make).__name__}; give a module or function.")
    _offered[name] = make


@starts.add("generator")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Generator(Early):
    """``source`` gives pictures in [0, 1], which are encoded by the model's codec and noised at
    ``ratio`` with the picture's own noise (2205.12524, algorithm 2).

    ``source``: a folder of pictures, of which each sample takes one by its noise (for a model with
    labels a folder for each label, named by its number), or ``offered:NAME``, see :func:`offer`.
    """

    source: str
    heavy = True

    def __post_init__(self) -> None:
        super().__post_init__()
        text = isinstance(self.source, str)
        require(text, f"start option source is {self.source!r}; it takes a folder in quotes.")

    def prepare(self, model: Model, other: LatentsOf) -> Begin:
        make = _maker(self.source, model)

        def begin(noise: torch.Tensor, level: Level, condition: Condition) -> torch.Tensor:
            pictures = _checked(
                self.source, make(noise, condition.labels), noise, model.picture_shape
            )
            return noised(model.codec.encode(pictures), noise, level)

        return begin


def _maker(source: str, model: Model) -> Make:
    if not source.startswith(OFFERED):
        return _Folder(source, model).make
    name = source.removeprefix(OFFERED)
    if name not in _offered:
        have = nearest(name, _offered) if _offered else "Nothing was offered in this process."
        raise UserError(f"start option source is {source!r}. {have}")
    make = _offered[name]
    return lambda noise, condition: make(second(noise), condition)


def _checked(
    source: str, pictures: torch.Tensor, noise: torch.Tensor, shape: Shape
) -> torch.Tensor:
    want = (len(noise), *shape)
    got = tuple(pictures.shape) if isinstance(pictures, torch.Tensor) else type(pictures).__name__
    require(got == want, f"start generator {source!r} gave {got}; it has to give pictures {want}.")
    low, high = pictures.aminmax()
    require(
        bool((low >= -SLACK) & (high <= 1 + SLACK)),
        f"start generator {source!r} gave values from {float(low):g} to {float(high):g}; pictures "
        "lie in [0, 1].",
    )
    return pictures.to(noise.device).float().clamp(0, 1)


class _Folder:
    """Pictures of a folder, read when they are wanted."""

    def __init__(self, source: str, model: Model) -> None:
        folder = Path(source)
        require(folder.is_dir(), f"start option source is {source!r}, which is no folder.")
        self._shape, self._null = model.picture_shape, model.null_label
        names = [""] if model.labels is None else [str(label) for label in range(model.labels)]
        self._pools = [_pictures_in(source, folder / name) for name in names]
        self._every = [file for pool in self._pools for file in pool]
        self._read(self._every[0])  # refuses another shape before anything is sampled

    def make(self, noise: torch.Tensor, condition: torch.Tensor | None) -> torch.Tensor:
        labels = [None] * len(noise) if condition is None else condition.tolist()
        rows = []
        for label, stream in zip(labels, streams(noise), strict=True):
            pool = self._every if label is None or label == self._null else self._pools[label]
            rows.append(self._read(pool[int(torch.randint(len(pool), (), generator=stream))]))
        return torch.stack(rows)

    def _read(self, file: Path) -> torch.Tensor:
        channels, height, width = self._shape
        require(channels in (1, 3), f"pictures have 1 or 3 channels, the model's {channels}.")
        try:
            with Image.open(file) as image:
                size = image.height, image.width
                pixels = np.array(image.convert("L" if channels == 1 else "RGB"))
        except (OSError, ValueError, Image.DecompressionBombError) as error:
            raise UserError(
                f"start generator: {str(file)!r} cannot be read ({type(error).__name__})."
            ) from error
        require(
            size == (height, width),
            f"start generator: {str(file)!r} has {size[0]}x{size[1]} pixels; the model's pictures "
            f"have {height}x{width}.",
        )
        rows = torch.from_numpy(pixels).float() / 255
        return rows[None] if channels == 1 else rows.permute(2, 0, 1)


def _pictures_in(source: str, folder: Path) -> list[Path]:
    there = folder.rglob("*") if folder.is_dir() else ()
    files = sorted(file for file in there if file.suffix.lower() in SUFFIXES and file.is_file())
    require(
        len(files) >= FEWEST,
        f"start option source is {source!r}, and {str(folder)!r} holds {len(files)} pictures; it "
        f"takes {FEWEST} or more there (for a model with labels, in a folder for each label).",
    )
    return files
