"""Real pictures through `datasets`: a parquet file, a folder of pictures, or a hub name."""

from __future__ import annotations

import glob
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from PIL import Image, ImageOps

from hasten.core.codec import Shape
from hasten.core.errors import UserError, nearest, require

if TYPE_CHECKING:
    from datasets import Dataset

IN_MEMORY_BYTES = 4 << 30
MAX_PIXELS = 89_478_485  # where Pillow begins to warn of decompression bombs
SUFFIXES = (".avif", ".bmp", ".gif", ".jp2", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif")
SUFFIXES += (".tiff", ".webp")
SPLITS = {"train", "training", "test", "val", "valid", "validation", "dev", "eval"}
HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
KINDS = "give a parquet file, a folder of pictures, or a data set's hub name."


class Pictures:
    """Pictures of one shape with optional labels, as uint8; in memory when they fit.

    Args:
        rows: a `datasets` dataset.
        shape: (c, h, w); others are resized to cover it, then cut to its centre.
        image, label, caption: the columns; None for pictures without labels or captions.
    """

    def __init__(
        self,
        rows: Dataset,
        shape: Shape,
        image: str = "image",
        label: str | None = None,
        caption: str | None = None,
    ) -> None:
        datasets = _datasets()
        for name in filter(None, (image, label, caption)):
            columns = nearest(name, rows.column_names)
            require(name in rows.column_names, f"data has no column {name!r}. {columns}")
        require(len(rows) > 0, "data holds no picture; name a file or folder that does.")
        require(shape[0] in (1, 3), f"shape {shape} has {shape[0]} channels; pictures have 1 or 3.")
        self.shape = shape
        self._image, self._decoder = image, datasets.Image()
        coded = datasets.Image(decode=False)
        self._rows = rows.select_columns([image]).cast_column(image, coded)
        self.labels = None if label is None else _labels(rows, label)
        self._captions = None if caption is None else _captions(rows, caption)
        self._all: torch.Tensor | None = None
        if len(rows) * int(np.prod(shape)) <= IN_MEMORY_BYTES:
            self._all = self._decode(np.arange(len(rows)))

    def __len__(self) -> int:
        return len(self._rows)

    def captions(self, index: np.ndarray) -> list[str]:
        """The captions of the pictures ``index``."""
        require(self._captions is not None, "recipe field 'data.caption' is needed; name a column.")
        assert self._captions is not None
        return [self._captions[row] for row in index.tolist()]

    def __getitem__(self, index: np.ndarray) -> torch.Tensor:
        """uint8 (n, c, h, w) at ``index``."""
        return self._decode(index) if self._all is None else self._all[torch.from_numpy(index)]

    def _decode(self, index: np.ndarray) -> torch.Tensor:
        out = torch.empty((len(index), *self.shape), dtype=torch.uint8)

        def decode_row(place: int) -> None:
            out[place] = self._picture(int(index[place]))

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(decode_row, range(len(index))))
        return out

    def _picture(self, row: int) -> torch.Tensor:
        coded = self._rows[row][self._image]
        name = f"row {row}" if not coded or not coded.get("path") else str(coded["path"])
        try:
            return to_tensor(self._decoder.decode_example(coded), self.shape)
        except Exception as error:
            why = str(error) if isinstance(error, UserError) else type(error).__name__
            raise UserError(
                f"data: the picture of {name} cannot be read ({why}); remove or replace it."
            ) from error


def _labels(rows: Dataset, column: str) -> torch.Tensor:
    values = np.asarray(rows[column])
    require(
        values.ndim == 1 and values.dtype.kind in "iu",
        f"data column {column!r} holds {values.dtype.name} values; labels are whole numbers, one a "
        "picture, without gaps.",
    )
    return torch.from_numpy(values.astype(np.int64))


def _captions(rows: Dataset, column: str) -> list[str]:
    values = list(rows[column])
    require(
        all(isinstance(value, str) for value in values),
        f"data column {column!r} holds values that are no text; captions are texts.",
    )
    return values


def to_tensor(picture: Image.Image, shape: Shape) -> torch.Tensor:
    """A PIL image as uint8 (c, h, w): resized to cover the shape, cut to its centre."""
    channels, height, width = shape
    require(
        picture.width * picture.height <= MAX_PIXELS,
        f"it has {picture.width}x{picture.height} pixels, and {MAX_PIXELS} is the most",
    )
    picture = _eight_bits(picture).convert("L" if channels == 1 else "RGB")
    if picture.size != (width, height):
        picture = ImageOps.fit(picture, (width, height), Image.Resampling.BICUBIC)
    pixels = torch.from_numpy(np.array(picture))
    return pixels[None] if channels == 1 else pixels.permute(2, 0, 1)


def _eight_bits(picture: Image.Image) -> Image.Image:
    """Pillow cuts 16-bit grey at 255 where it is converted; here it is scaled."""
    if picture.mode != "I" and not picture.mode.startswith("I;16"):
        return picture
    grey = np.asarray(picture).astype(np.float64)
    scale = 257 if picture.mode != "I" or grey.max() > 255 else 1
    return Image.fromarray((grey / scale).round().clip(0, 255).astype(np.uint8))


def load_rows(source: str | Path, split: str = "train") -> Dataset:
    """The `datasets` rows of a parquet file, a folder of pictures, or a data set's hub name.

    A folder may hold one folder per class (its rows then have a ``label``), or one folder per
    split, of which ``split`` is read. Hidden files and files that are not pictures are ignored.

    Raises:
        UserError: the source is none of the three, or cannot be read.
    """
    datasets = _datasets()
    datasets.disable_progress_bars()
    source, path = str(source), Path(source)
    try:
        if path.is_file():
            require(path.suffix == ".parquet", f"data {source!r} is no parquet file; {KINDS}")
            files = glob.escape(str(path))
            rows = datasets.load_dataset("parquet", data_files=files, split="train")
        elif path.is_dir():
            return _folder(path, split)
        else:
            named = HUB_NAME.fullmatch(source) and path.suffix != ".parquet"
            require(bool(named), f"data {source!r} is neither a file nor a folder; {KINDS}")
            rows = datasets.load_dataset(source, split=split)
        return cast("Dataset", rows)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"data {source!r} cannot be read ({type(error).__name__}); {KINDS}") from (
            error
        )


def picture_column(rows: Dataset) -> str:
    """The column that holds the pictures: ``image``, ``img``, or the only one that can."""
    datasets, names = _datasets(), rows.column_names
    able = [name for name in names if isinstance(rows.features[name], datasets.Image)]
    usual = [name for name in ("image", "img") if name in names]
    require(
        bool(usual) or len(able) == 1,
        f"data has no column 'image' or 'img'. {nearest('image', names)}",
    )
    return usual[0] if usual else able[0]


def evenly_spread(n: int, most: int) -> np.ndarray:
    """At most ``most`` of the indices 0 to n - 1, evenly spread, in order."""
    count = min(n, most)
    return np.arange(count, dtype=np.int64) * n // max(count, 1)


def _folder(folder: Path, split: str) -> Dataset:
    datasets = _datasets()
    inner = {path.name for path in folder.iterdir() if path.is_dir() and path.name[0] != "."}
    if inner and inner <= SPLITS:
        require(
            split in inner or len(inner) == 1,
            f"data {str(folder)!r} has no split {split!r}. {nearest(split, inner)}",
        )
        folder = folder / (split if split in inner else inner.pop())
    files = sorted(path for path in folder.rglob("*") if _is_picture(path, folder))
    require(bool(files), f"data {str(folder)!r} holds no picture; {KINDS}")
    columns: dict[str, list[str]] = {"image": [str(file) for file in files]}
    kinds: dict[str, object] = {"image": datasets.Image()}
    classes = sorted({file.parent.name for file in files})
    if len(classes) > 1 and all(file.parent != folder for file in files):
        columns["label"] = [file.parent.name for file in files]
        kinds["label"] = datasets.ClassLabel(names=classes)
    return datasets.Dataset.from_dict(columns, features=datasets.Features(kinds))


def _is_picture(path: Path, folder: Path) -> bool:
    hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
    return not hidden and path.suffix.lower() in SUFFIXES and path.is_file()


def _datasets() -> ModuleType:
    try:
        import datasets
    except ImportError as error:
        raise UserError('reading data needs: pip install "hasten[tune]"') from error
    return datasets
