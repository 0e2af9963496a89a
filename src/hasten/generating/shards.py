"""The folder of a job: shards that are whole or not there, with the manifest of each last.

``job.json`` says what the job is. Shard 12 is ``shard-000012.parquet`` (or ``.tar``, or a folder),
and ``shard-000012.jsonl`` has a line for each of its items. A shard is done once that manifest is
there. Who makes a shard holds its lock, which goes with the process, however that ends.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import filelock

from hasten.core.errors import UserError, require
from hasten.core.files import JsonObject, fsync, read_json, require_writable, sha256, write_text

JOB = "job.json"
LOCKS = ".locks"
ENDS = {"parquet": ".parquet", "tar": ".tar", "files": ""}


class Shards:
    """The shards of ``format`` in ``folder``."""

    def __init__(self, folder: Path, format: str) -> None:
        self.folder, self._end = folder, ENDS[format]

    def file(self, shard: int) -> Path:
        """The file or folder of a shard."""
        return self.folder / f"shard-{shard:06d}{self._end}"

    def manifest(self, shard: int) -> Path:
        """What says that a shard is done."""
        return self.folder / f"shard-{shard:06d}.jsonl"

    def done(self, shard: int) -> bool:
        """Whether its manifest is there."""
        return self.manifest(shard).is_file()

    @contextlib.contextmanager
    def lock(self, shard: int) -> Iterator[bool]:
        """Whether this process has the shard to itself, within; nobody is waited for."""
        file = self.folder / LOCKS / f"{shard:06d}.lock"
        with contextlib.ExitStack() as held:
            with named(self.folder):
                mine = held.enter_context(lock(file))
            yield mine
            if mine and self.done(shard):
                with contextlib.suppress(OSError):  # nobody needs it again
                    file.unlink()

    @contextlib.contextmanager
    def beside(self, shard: int) -> Iterator[Path]:
        """A path to write the shard to, for its owner; what is still there afterwards goes."""
        self._sweep(shard)
        path = self.folder / f".shard-{shard:06d}.{os.getpid()}.tmp"
        try:
            yield path
        finally:
            _remove(path)

    def publish(self, shard: int, beside: Path, rows: Sequence[JsonObject]) -> None:
        """Move what was written ``beside`` into place, and then write its manifest."""
        file = self.file(shard)
        with named(self.folder):
            for path in (*(beside.iterdir() if beside.is_dir() else ()), beside):
                fsync(path)
            where = {"shard": file.name, "shard_sha256": _digest(beside)}
            lines = [json.dumps({**row, **where}, ensure_ascii=False) for row in rows]
            if file.is_dir():  # without its manifest
                shutil.rmtree(file)
            beside.replace(file)
            fsync(self.folder)
            write_text(self.manifest(shard), "\n".join(lines) + "\n")
            fsync(self.folder)

    def verify(self, shard: int, items: range) -> bool:
        """Whether a shard that has a manifest is whole; if not, the manifest is removed, and it
        will be made again. One that somebody is at work on is let alone."""
        with self.lock(shard) as mine:
            if mine and self.done(shard) and not self._whole(shard, items):
                with named(self.folder):
                    self.manifest(shard).unlink()
        return self.done(shard)

    def sweep(self) -> None:
        """Remove what processes that were killed left half written."""
        with named(self.folder):
            for path in self.folder.glob(".shard-*.tmp"):
                number = path.name.split(".")[1].removeprefix("shard-")
                if number.isdecimal():
                    with self.lock(int(number)) as mine:
                        if mine:
                            _remove(path)

    def _sweep(self, shard: int) -> None:
        for path in self.folder.glob(f".shard-{shard:06d}.*.tmp"):
            _remove(path)

    def _whole(self, shard: int, items: range) -> bool:
        try:
            text = self.manifest(shard).read_text(encoding="utf-8")
            rows = [json.loads(line) for line in text.splitlines()]
            numbers = [row["number"] for row in rows]
            digests = {row["shard_sha256"] for row in rows}
            return numbers == list(items) and digests == {_digest(self.file(shard))}
        except (OSError, ValueError, KeyError, TypeError):
            return False


def require_ours(folder: Path) -> None:
    """Refuse a folder that shards cannot be written to.

    Raises:
        UserError: it is a file, or holds anything that hasten did not write.
    """
    require_writable(folder)
    require(not folder.exists() or folder.is_dir(), f"out: {folder} is a file; give a folder.")
    with named(folder):
        theirs = folder.is_dir() and any(each.name[0] != "." for each in folder.iterdir())
        require(
            not theirs or (folder / JOB).is_file(),
            f"out: {folder} holds files, but no {JOB} of hasten generate; choose a new folder.",
        )


def open_job(folder: Path, identity: JsonObject) -> None:
    """Write job.json, or find that the folder is of the same job.

    Raises:
        UserError: it is of another, naming what differs.
    """
    file = folder / JOB
    with named(folder):
        (folder / LOCKS).mkdir(parents=True, exist_ok=True)
    with named(folder), filelock.FileLock(folder / LOCKS / "job.lock"):
        if not file.exists():
            write_text(file, json.dumps(identity, indent=1, ensure_ascii=False) + "\n")
            return
    there = read_json(file)
    require(isinstance(there, dict), f"{file} is damaged; choose another folder.")
    differ = [name for name in identity if there.get(name) != identity[name]]
    if not differ:
        return
    name = differ[0]
    plain = isinstance(identity[name], (str, int)) and len(str(identity[name])) < 40
    values = f" ({there.get(name)} there, {identity[name]} here)" if plain else ""
    more = f", and so do {', '.join(differ[1:])}" if len(differ) > 1 else ""
    raise UserError(
        f"out: {folder} holds another job: {name} differs{values}{more}; choose another folder, or "
        "give what job.json says."
    )


@contextlib.contextmanager
def lock(file: Path) -> Iterator[bool]:
    """Whether this process holds the lock ``file``, within."""
    file.parent.mkdir(parents=True, exist_ok=True)
    held = filelock.FileLock(file, timeout=0)
    try:
        held.acquire()
    except filelock.Timeout:
        yield False
        return
    try:
        yield True
    finally:
        held.release()


@contextlib.contextmanager
def named(folder: Path) -> Iterator[None]:
    """Errors of the disk as one line that names ``folder``."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{folder} cannot be written: {error.strerror or error}; what is done stays, and the "
            "same command goes on."
        ) from error


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _digest(path: Path) -> str:
    """The sha256 of a file, or of the names and digests of a folder's files."""
    if not path.is_dir():
        return sha256(path)
    lines: Iterable[str] = (f"{file.name} {sha256(file)}\n" for file in sorted(path.iterdir()))
    return hashlib.sha256("".join(lines).encode()).hexdigest()
