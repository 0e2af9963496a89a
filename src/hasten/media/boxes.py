"""How long MP4, AVI and Matroska files say that they are."""

from __future__ import annotations

import io
import itertools
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

MP4_FIRST = (b"ftyp", b"moov", b"mdat", b"free", b"wide", b"skip", b"styp", b"moof")
EBML, SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"
MOST_BOXES = 1_000_000  # that are looked at; a fragment a second for eleven days


class Box(NamedTuple):
    """A piece of an MP4 file: its four letters, where it starts, and the byte after it."""

    kind: bytes
    start: int
    end: int


def boxes(file: BinaryIO) -> Iterator[Box]:
    """The outermost boxes of an MP4 file; the last may end beyond it (ISO/IEC 14496-12, 4.2)."""
    start, length = 0, file.seek(0, io.SEEK_END)
    for _ in range(MOST_BOXES):
        file.seek(start)
        head = file.read(16)
        if len(head) < 8:
            return
        size, kind = struct.unpack(">I4s", head[:8])
        if size == 1 and len(head) == 16:
            (size,) = struct.unpack(">Q", head[8:])
        size = length - start if size == 0 else size
        if size < 8:
            return
        yield Box(kind, start, start + size)
        start += size


def stops_short(file: BinaryIO) -> bool:
    """Whether an MP4, AVI or Matroska file ends before the length that it gives itself.

    Other formats, and files that were written without knowing their length, never do.
    """
    length = file.seek(0, io.SEEK_END)
    file.seek(0)
    head = file.read(64)
    if head[4:8] in MP4_FIRST:
        return any(box.end > length for box in boxes(file))
    if head[:4] == b"RIFF" and len(head) >= 8:
        (size,) = struct.unpack("<I", head[4:8])
        return size != 0xFFFFFFFF and 8 + size > length
    if head[:4] == EBML:
        end = _segment_end(head)
        return end is not None and end > length
    return False


def cut_to_whole_fragments(path: Path) -> bool:
    """Cut a fragmented MP4 after the last fragment that is complete; False where there is none."""
    with path.open("rb") as file:
        length = file.seek(0, io.SEEK_END)
        found = [box for box in boxes(file) if box.end <= length]
    whole = [
        box.end
        for before, box in itertools.pairwise(found)
        if (before.kind, box.kind) == (b"moof", b"mdat")
    ]
    if not whole or all(box.kind != b"moov" for box in found):
        return False
    os.truncate(path, whole[-1])
    return True


def _segment_end(head: bytes) -> int | None:
    """Where the segment of a Matroska file ends, where it says so (RFC 8794, 4 and 6)."""
    header = _size(head, 4)
    if header is None:
        return None
    start = header[0] + header[1]
    if head[start : start + 4] != SEGMENT:
        return None
    segment = _size(head, start + 4)
    return None if segment is None else segment[0] + segment[1]


def _size(head: bytes, at: int) -> tuple[int, int] | None:
    """A size of variable length at ``at``: where what it measures starts, and how long that is."""
    if at >= len(head) or head[at] == 0:
        return None
    width = 9 - head[at].bit_length()
    digits = head[at : at + width]
    size = int.from_bytes(digits, "big") & ((1 << 7 * width) - 1)
    unknown = size == (1 << 7 * width) - 1
    return None if unknown or len(digits) < width else (at + width, size)
