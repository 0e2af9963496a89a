"""Files that are whole or not there: written beside, checked by sha256, moved into place."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hasten.core.errors import UserError

MANIFEST = "manifest.json"
JsonObject = dict[str, Any]
"""The object in a JSON file; its values are checked where they are used."""
TEXT = "utf-8-sig"  # UTF-8, with or without the byte order mark that some editors write


def sha256(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_text(path: str | Path, text: str) -> None:
    """:func:`write_bytes` of ``text`` in UTF-8."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: str | Path, content: bytes) -> None:
    """Write ``path`` so that a reader sees the old file or the new one, never a half."""
    path = require_writable(path)
    with _named(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            with beside.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)


def read_lines(what: str, path: str | Path) -> list[str]:
    """The lines of a text file that are not empty; ``what`` names it in an error. Only newlines end
    a line, and a byte order mark is no part of the first."""
    path = Path(path)
    try:
        lines = [line.strip() for line in path.read_text(encoding=TEXT).split("\n")]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{what}: {path} cannot be read ({error}); give a text file.") from error
    lines = [line for line in lines if line]
    if not lines:
        raise UserError(f"{what}: {path} holds no line; write one per line.")
    return lines


def read_json(path: Path) -> Any:
    """The JSON in ``path``; a file that cannot be read names itself."""
    try:
        return json.loads(path.read_text(encoding=TEXT))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            f"{path} cannot be read as JSON ({error}); write or copy it again."
        ) from error


def require_writable(path: str | Path) -> Path:
    """``path``, where a file or folder of that name can be written.

    Raises:
        UserError: it names no file, or lies under something that is not a folder.
    """
    if not isinstance(path, str | Path) or "\0" in str(path) or Path(path).name in ("", ".."):
        raise UserError(f"{path!s:.100} names no file or folder to write; give a name.")
    path = Path(path)
    above = next((folder for folder in path.absolute().parents if folder.exists()), None)
    if above is not None and not above.is_dir():
        raise UserError(f"{path} cannot be written: {above} is a file; choose another place.")
    return path


def require_replaceable(folder: str | Path) -> Path:
    """``folder``, where it is new, empty, or one that hasten wrote.

    Raises:
        UserError: it holds anything else, which would be lost.
    """
    folder = require_writable(folder)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file; choose a new folder, or remove it.")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / MANIFEST).is_file():
        raise UserError(
            f"{folder} holds files that hasten did not write, and would replace; choose a new or "
            "an empty folder."
        )
    return folder


@contextlib.contextmanager
def new_folder(target: Path, facts: Mapping[str, object] | None = None) -> Iterator[Path]:
    """A folder to fill, which becomes ``target`` with a sha256 manifest, or leaves nothing behind.

    An existing ``target`` is replaced only once the new folder is complete and on the disk.

    Raises:
        UserError: ``target`` is a file or holds anything that hasten did not write.
    """
    require_replaceable(target)
    beside = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    with _named(target):
        try:
            shutil.rmtree(beside, ignore_errors=True)
            beside.mkdir(parents=True)
            yield beside
            write_manifest(beside, facts)
            _fsync_tree(beside)
            old = target.with_name(f".{target.name}.{os.getpid()}.old")
            if target.exists():
                target.replace(old)
            try:
                beside.replace(target)
            except OSError:
                if old.exists():
                    old.replace(target)
                raise
            fsync(target.parent)
            shutil.rmtree(old, ignore_errors=True)
        finally:
            shutil.rmtree(beside, ignore_errors=True)


def write_manifest(folder: Path, facts: Mapping[str, object] | None = None) -> None:
    """List every file of ``folder`` with its size and sha256 in ``manifest.json``."""
    files = {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": sha256(path)}
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != MANIFEST
    }
    text = json.dumps({**(facts or {}), "files": files}, indent=1)
    (folder / MANIFEST).write_text(text, encoding="utf-8")


def verify(folder: Path, root: Path | None = None) -> JsonObject:
    """The manifest of ``folder``, after every file it lists was found whole inside ``root`` (the
    folder itself; a download cache keeps its files one level up, behind links).

    Raises:
        UserError: naming the first file that is missing, outside the folder, or changed.
    """
    manifest = read_json(folder / MANIFEST)
    root = (root or folder).resolve()
    try:
        known = [
            (name, facts["bytes"], facts["sha256"]) for name, facts in manifest["files"].items()
        ]
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{folder / MANIFEST} is damaged; copy or download the folder again."
        ) from error
    for name, size, digest in known:
        path = (folder / name).resolve()
        if not path.is_relative_to(root) or not path.is_file():
            raise UserError(f"{folder / name} is missing; copy or download the folder again.")
        if path.stat().st_size != size or sha256(path) != digest:
            raise UserError(f"{folder / name} is damaged; copy or download the folder again.")
    return manifest


def cache_root(folder: Path) -> Path:
    """Where the files of ``folder`` may really lie: in it, or in the hub's cache around it.

    The cache keeps files in ``models--owner--name/blobs`` and links to them from ``snapshots``;
    newer versions keep what several repos share in ``blobs`` beside these.
    """
    place = folder.resolve()
    for parent in place.parents:
        if parent.name == "snapshots" and parent.parent.name.startswith("models-"):
            own, shared = parent.parent, parent.parent.with_name("blobs")
            return own.parent if shared.is_dir() else own
    return place


@contextlib.contextmanager
def _named(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"{target} cannot be written: {error.strerror or error}.") from error


def _fsync_tree(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            fsync(path)
    fsync(folder)


def fsync(path: Path) -> None:
    """Have what was written to a file, or the names in a folder, on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
