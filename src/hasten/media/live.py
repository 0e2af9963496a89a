"""Where frames come from: a file, a pipe, or a camera."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from hasten.core.errors import UserError, require
from hasten.media.local_files import DECODED, opened, reason
from hasten.media.reading import ClipReader, open_clip
from hasten.media.video import require_av

if TYPE_CHECKING:
    from av.container import InputContainer

PIPE = "-"
STDIN = 0
CAMERA = re.compile(r"camera:(\d{1,3})")
CAMERAS: dict[str, tuple[str, Callable[[int], str]]] = {
    "linux": ("v4l2", lambda number: f"/dev/video{number}"),
    "darwin": ("avfoundation", lambda number: f"{number}:none"),
    "win32": ("dshow", lambda number: _listed(number)),
}
"""FFmpeg's input format of each platform, and what it calls a camera."""
OPTIONS = {"avfoundation": {"framerate": "30"}}  # it asks for 29.97, which few cameras have


def is_pipe(place: str | Path) -> bool:
    """Whether ``place`` stands for stdin or stdout."""
    return str(place) == PIPE


def is_camera(source: str | Path) -> bool:
    """Whether ``source`` names a camera."""
    return CAMERA.fullmatch(str(source)) is not None


def open_source(source: str | Path) -> ClipReader:
    """``source`` to be read frame by frame: ``-`` for stdin (y4m, Matroska, MPEG-TS or whatever
    can be read without going back), ``camera:0`` for the first camera, else a file.

    Raises:
        UserError: it is not there, or holds no frame that can be read.
    """
    require_av()
    if is_pipe(source):
        return _piped(STDIN)
    if is_camera(source):
        return _camera(int(str(source).partition(":")[2]))
    return open_clip(source)


def _piped(handle: int) -> ClipReader:
    import av

    require(
        not os.isatty(handle),
        "input is '-', and stdin is a terminal; pipe a clip into it, or name a file.",
    )
    try:
        container = opened(_Pipe(handle))
    except (av.FFmpegError, OSError, UserError) as error:
        raise UserError(
            f"the clip on stdin cannot be read ({reason(error)}); send y4m, Matroska, MPEG-TS or "
            "fragmented MP4."
        ) from error
    return ClipReader("the clip on stdin", container)


class _Pipe:
    """Gives what has arrived, so that no frame waits until a buffer is full."""

    def __init__(self, handle: int) -> None:
        self._handle = handle

    def read(self, size: int) -> bytes:
        return os.read(self._handle, size)


def _camera(number: int) -> ClipReader:
    require(
        sys.platform in CAMERAS,
        f"input is 'camera:{number}', and cameras are not supported on {sys.platform}; pipe the "
        "clip in with --input -.",
    )
    kind, named = CAMERAS[sys.platform]
    address = named(number)
    try:
        container = _device(kind, address)
    except (ValueError, OSError) as error:  # FFmpeg's are one of these
        raise UserError(
            f"camera:{number} cannot be opened through {kind} ({reason(error)}); check that it is "
            "connected and not in use by another program."
        ) from error
    return ClipReader(f"camera:{number}", container)


def _device(kind: str, address: str) -> InputContainer:
    import av

    options = {"max_pixels": str(DECODED), **OPTIONS.get(kind, {})}
    return av.open(address, format=kind, options=options)


def _listed(number: int) -> str:
    """What DirectShow calls the camera of that number."""
    import av

    devices = av.enumerate_input_devices("dshow")
    names = [device.name for device in devices if "video" in device.media_types]
    require(number < len(names), f"camera:{number} is not there; there are {len(names)} cameras.")
    return f"video={names[number].removeprefix('video=')}"
