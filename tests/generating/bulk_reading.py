"""Reads what bulk generation wrote, in every format."""

from __future__ import annotations

import hashlib
import json
import tarfile
from pathlib import Path

import pyarrow.parquet as pq

TWO = "solver=ddim,grid=uniform,steps=2"


def rows_of(out: Path) -> list[dict]:
    """The lines of all manifests, in the order of the shards."""
    files = sorted(out.glob("shard-*.jsonl"))
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def contents_of(out: Path) -> dict[int, bytes]:
    """The bytes of every item by its number; none may be there twice."""
    found: list[tuple[int, bytes]] = []
    for shard in sorted(out.glob("shard-*")):
        if shard.is_dir():
            files = [file for file in shard.iterdir() if file.suffix != ".jsonl"]
            found += [(int(file.stem), file.read_bytes()) for file in files]
        elif shard.suffix == ".parquet":
            for row in pq.read_table(shard).to_pylist():
                picture = row["latents"] if "latents" in row else row["image"]["bytes"]
                found.append((row["number"], picture))
        elif shard.suffix == ".tar":
            with tarfile.open(shard) as tar:
                for entry in tar:
                    stem, _, end = entry.name.partition(".")
                    if end != "json":
                        found.append((int(stem), tar.extractfile(entry).read()))
    assert len({number for number, _ in found}) == len(found)
    return dict(found)


def whole(out: Path, n: int) -> bool:
    """Whether every item is there once, as the manifests say, and nothing half written."""
    contents, rows = contents_of(out), rows_of(out)
    assert [row["number"] for row in rows] == list(range(n)) == sorted(contents)
    for row in rows:
        content = contents[row["number"]]
        assert row["sha256"] == hashlib.sha256(content).hexdigest()
        assert row["bytes"] == len(content)
    return not list(out.glob(".*.tmp"))


def files_of(out: Path) -> dict[str, bytes]:
    """Every file of the folder but the locks."""
    files = [file for file in out.rglob("*") if file.is_file() and ".locks" not in file.parts]
    return {str(file.relative_to(out)): file.read_bytes() for file in files}
