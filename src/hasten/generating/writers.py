"""The files that a shard can be: parquet, a tar as webdataset reads it, or a folder of files.

The same items give the same bytes: no time, no user, and no name of a machine is written.
"""

from __future__ import annotations

import io
import json
import tarfile
from abc import ABC, abstractmethod
from pathlib import Path
from types import ModuleType

from hasten.core.errors import UserError
from hasten.core.files import JsonObject
from hasten.generating.items import SUFFIX, Item

ROWS = 256  # of a row group of parquet
BYTES = 64 << 20  # of pictures that wait for their row group


class ShardWriter(ABC):
    """Writes items to ``path``, in order, for ``image`` (png, jpeg, webp or latents)."""

    def __init__(self, path: Path, image: str) -> None:
        self.path, self.image = path, image

    @abstractmethod
    def add(self, item: Item, facts: JsonObject) -> None:
        """Write one more."""

    @abstractmethod
    def close(self) -> None:
        """Write what is left, and close the file; again, it does nothing."""


class TarShard(ShardWriter):
    """``000000123.png`` and ``000000123.json`` for each item."""

    def __init__(self, path: Path, image: str) -> None:
        super().__init__(path, image)
        self._tar = tarfile.open(path, "w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115

    def add(self, item: Item, facts: JsonObject) -> None:
        self._add(f"{item.name}.{SUFFIX[self.image]}", item.content)
        self._add(f"{item.name}.json", json.dumps(facts, ensure_ascii=False).encode())

    def close(self) -> None:
        self._tar.close()

    def _add(self, name: str, content: bytes) -> None:
        entry = tarfile.TarInfo(name)  # its time, user and group are 0
        entry.size = len(content)
        self._tar.addfile(entry, io.BytesIO(content))


class FilesShard(ShardWriter):
    """A folder of ``000000123.png``, and the metadata.jsonl that `datasets` looks for."""

    def __init__(self, path: Path, image: str) -> None:
        super().__init__(path, image)
        path.mkdir()
        self._lines = (path / "metadata.jsonl").open("w", encoding="utf-8", newline="\n")

    def add(self, item: Item, facts: JsonObject) -> None:
        name = f"{item.name}.{SUFFIX[self.image]}"
        (self.path / name).write_bytes(item.content)
        self._lines.write(json.dumps({"file_name": name, **facts}, ensure_ascii=False) + "\n")

    def close(self) -> None:
        self._lines.close()


class ParquetShard(ShardWriter):
    """A row for each item: what is known of it, and ``image`` (bytes, path) as `datasets` decodes
    it; or ``latents`` (float32) and ``shape``."""

    def __init__(self, path: Path, image: str) -> None:
        super().__init__(path, image)
        arrow, parquet = _arrow()
        self._arrow, self._rows, self._waiting = arrow, list[JsonObject](), 0
        text, whole = arrow.string(), arrow.int64()
        columns = {"number": whole, "seed": whole, "prompt": text, "label": whole, "plan": text}
        columns |= {"sha256": text, "bytes": whole}
        features: JsonObject = {
            name: {"dtype": str(kind), "_type": "Value"} for name, kind in columns.items()
        }
        if image == "latents":
            columns |= {"latents": arrow.binary(), "shape": arrow.list_(whole)}
            features["latents"] = {"dtype": "binary", "_type": "Value"}
            features["shape"] = {"feature": {"dtype": "int64", "_type": "Value"}, "_type": "List"}
        else:
            parts = [("bytes", arrow.binary()), ("path", text)]
            columns["image"] = arrow.struct(parts)
            features["image"] = {"_type": "Image"}
        about = {"huggingface": json.dumps({"info": {"features": features}})}
        self._schema = arrow.schema(list(columns.items()), metadata=about)
        large = ("latents",) if image == "latents" else ("image.bytes",)
        self._file = parquet.ParquetWriter(
            path,
            self._schema,
            compression=dict.fromkeys(large, "none") | _compressed(columns, image),
            use_dictionary=["prompt", "plan"],
        )

    def add(self, item: Item, facts: JsonObject) -> None:
        if self.image == "latents":
            row = {"latents": item.content, "shape": list(item.shape)}
        else:
            name = f"{item.name}.{SUFFIX[self.image]}"
            row = {"image": {"bytes": item.content, "path": name}}
        self._rows.append({**facts, **row})
        self._waiting += len(item.content)
        if len(self._rows) >= ROWS or self._waiting >= BYTES:
            self._flush()

    def close(self) -> None:
        if self._file.is_open:
            self._flush()
        self._file.close()

    def _flush(self) -> None:
        if self._rows:
            table = self._arrow.Table.from_pylist(self._rows, schema=self._schema)
            self._file.write_table(table, row_group_size=len(self._rows))
        self._rows, self._waiting = [], 0


def _compressed(columns: JsonObject, image: str) -> dict[str, str]:
    """Every column but the pictures, which are compressed already."""
    names = [name for name in columns if name not in ("latents", "image", "shape")]
    names.append("shape.list.element" if image == "latents" else "image.path")
    return dict.fromkeys(names, "zstd")


def _arrow() -> tuple[ModuleType, ModuleType]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise UserError(
            "parquet needs pyarrow: pip install 'hasten[bulk]', or take --format tar."
        ) from error
    return pyarrow, pyarrow.parquet


WRITERS: dict[str, type[ShardWriter]] = {
    "parquet": ParquetShard,
    "tar": TarShard,
    "files": FilesShard,
}
