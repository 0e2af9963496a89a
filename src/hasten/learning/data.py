"""Training pictures through `datasets`: parquet files, a folder of pictures, or a hub name."""

from __future__ import annotations

import functools
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hasten.core.codec import Shape
from hasten.core.errors import UserError, nearest, require

IN_MEMORY_BYTES = 4 << 30
MAX_PIXELS = 16_777_216


class Pictures:
    """Pictures of one shape with optional labels, as uint8; in memory when they fit.

    Args:
        rows: a `datasets` dataset.
        shape: (c, h, w); others are resized to cover it, then cut to its centre.
        image, label: the columns; ``label=None`` for pictures without labels.
    """

    def __init__(self, rows: Any, shape: Shape, image: str = "image", label: str | None = None):
        import datasets

        for name in filter(None, (image, label)):
            have = nearest(name, rows.column_names)
            require(name in rows.column_names, f"data has no column {name!r}. {have}")
        require(len(rows) > 0, "data holds no picture; name a file or folder that does.")
        if not isinstance(rows.features[image], datasets.Image):
            rows = rows.cast_column(image, datasets.Image())
        self.shape = shape
        self._rows, self._image = rows, image
        self.labels = (
            None if label is None else torch.tensor(np.asarray(rows[label]), dtype=torch.long)
        )
        self._all: torch.Tensor | None = None
        if len(rows) * int(np.prod(shape)) <= IN_MEMORY_BYTES:
            self._all = self._decode(np.arange(len(rows)))

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: np.ndarray) -> torch.Tensor:
        """uint8 (n, c, h, w) at ``index``."""
        return self._decode(index) if self._all is None else self._all[torch.from_numpy(index)]

    def _decode(self, index: np.ndarray) -> torch.Tensor:
        out = torch.empty((len(index), *self.shape), dtype=torch.uint8)

        def one(place: int) -> None:
            picture = self._rows[int(index[place])][self._image]
            out[place] = to_tensor(picture, self.shape)

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(one, range(len(index))))
        return out


def to_tensor(picture: Any, shape: Shape) -> torch.Tensor:
    """A PIL image as uint8 (c, h, w): resized to cover the shape, cut to its centre."""
    channels, height, width = shape
    require(
        picture.width * picture.height <= MAX_PIXELS,
        f"data holds a picture of {picture.width}x{picture.height}; at most {MAX_PIXELS} pixels.",
    )
    picture = picture.convert("L" if channels == 1 else "RGB")
    if picture.size != (width, height):
        scale = max(width / picture.width, height / picture.height)
        size = max(width, round(picture.width * scale)), max(height, round(picture.height * scale))
        picture = picture.resize(size)
        left, top = (size[0] - width) // 2, (size[1] - height) // 2
        picture = picture.crop((left, top, left + width, top + height))
    pixels = torch.from_numpy(np.array(picture))
    return pixels[None] if channels == 1 else pixels.permute(2, 0, 1)


def load_rows(source: str, split: str = "train") -> Any:
    """The `datasets` rows of a parquet file, an image folder, or a data set's hub name.

    Raises:
        UserError: the source is none of the three, or cannot be read.
    """
    try:
        import datasets
    except ImportError as error:
        raise UserError('reading data needs: pip install "hasten[train]"') from error
    datasets.disable_progress_bars()
    path = Path(source)
    try:
        if path.is_file():
            require(path.suffix == ".parquet", f"data {source!r} is no parquet file nor folder.")
            return datasets.load_dataset("parquet", data_files=str(path), split="train")
        if path.is_dir():
            return datasets.load_dataset("imagefolder", data_dir=str(path), split="train")
        return datasets.load_dataset(source, split=split)
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"data {source!r} cannot be read ({type(error).__name__}); give a parquet file, a "
            "folder of pictures, or a data set's hub name."
        ) from error


def order(seed: int, step: int, batch: int, n: int) -> np.ndarray:
    """Which pictures step ``step`` sees: consecutive pieces of one shuffle an epoch.

    A pure function of its arguments, so that a resumed run sees what the first would have seen.
    """
    first = step * batch
    places = np.arange(first, first + batch)
    out = np.empty(batch, np.int64)
    for epoch in range(first // n, (first + batch - 1) // n + 1):
        here = places // n == epoch
        out[here] = _shuffle(seed, epoch, n)[places[here] % n]
    return out


@functools.lru_cache(maxsize=2)
def _shuffle(seed: int, epoch: int, n: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch)).permutation(n)
