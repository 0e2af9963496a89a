"""Local video files, opened so that nothing in them makes FFmpeg open another file or address."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from hasten.core.errors import UserError, require
from hasten.media.frame_pixels import LARGEST, MOST_PIXELS
from hasten.media.video import require_av

if TYPE_CHECKING:
    from av.container import InputContainer

# FFmpeg knows some 300 formats, among them playlists, which name other files, and text.
FORMATS = (
    *("mov", "matroska", "avi", "mpegts", "mpeg", "mpegvideo", "flv", "asf", "ogg", "mxf", "nut"),
    *("dv", "h264", "hevc", "ivf", "obu", "yuv4mpegpipe", "gif", "apng"),
    *("png_pipe", "jpeg_pipe", "webp_pipe"),
)
# A decoder takes memory for whole blocks of up to 128 pixels.
DECODED = (LARGEST + 128) * (MOST_PIXELS // LARGEST + 128)
ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.,-]+:")
KINDS = "give an MP4, MOV, MKV, WebM, AVI, MPEG or GIF file"


def local_file(source: str | Path | BinaryIO) -> Path | BinaryIO:
    """``source`` as a path of a file that is there, or an open binary file that can seek.

    Raises:
        UserError: it is an address, a folder, no file, or not open for reading bytes.
    """
    if not isinstance(source, str | Path):
        readable = all(hasattr(source, name) for name in ("read", "seek", "tell"))
        require(
            readable and not getattr(source, "closed", False) and source.read(0) == b"",
            f"clip is a {type(source).__name__}; it takes a path, or a file opened with 'rb'.",
        )
        return source
    require("\0" not in str(source) and str(source) != "", "clip is no path; give a video file.")
    path = Path(source)
    there = _exists(path)
    require(
        there or not ADDRESS.match(str(source)),
        f"clip is {str(source)[:80]!r}; only local files are read, so download it first.",
    )
    require(there, f"there is no file {str(path)[:200]}; {KINDS}.")
    require(path.is_file(), f"{path} is a folder or a device; {KINDS}.")
    return path


def name_of(source: Path | BinaryIO | str) -> str:
    """What an error calls ``source``."""
    return str(source) if isinstance(source, Path | str) else "the clip"


@contextlib.contextmanager
def container_of(source: Path | BinaryIO) -> Iterator[tuple[InputContainer, BinaryIO]]:
    """The container in a file, and the file; both are closed at the end, but for a file that the
    caller opened.

    Raises:
        UserError: it cannot be read, or is in no format that is known.
    """
    require_av()
    import av

    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(source.open("rb")) if isinstance(source, Path) else source
            file.seek(0)
            container = opened(file)
        except (av.FFmpegError, OSError, UserError) as error:
            raise UserError(f"{name_of(source)} cannot be read ({reason(error)}); {KINDS}.") from (
                error
            )
        stack.enter_context(container)
        yield container, file


def opened(file: object) -> InputContainer:
    """The container that ``file`` holds; anything with ``read`` will do, a pipe too.

    Raises:
        FFmpegError: it is in no format that is known, or damaged.
        UserError: it names other files.
    """
    import av

    return av.open(
        file,
        "r",
        metadata_errors="replace",
        options={"max_pixels": str(DECODED)},
        container_options={"protocol_whitelist": "", "format_whitelist": ",".join(FORMATS)},
        io_open=_refuse,
    )


def reason(error: Exception) -> str:
    """Why FFmpeg or the disk failed, in a few words."""
    import av

    if isinstance(error, av.ArgumentError):
        return "no video format that hasten knows"
    return str(getattr(error, "strerror", None) or error)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a name that is too long, or a folder that may not be searched
        return False


def _refuse(address: str, flags: int, options: dict[str, str]) -> BinaryIO:
    raise UserError("it names other files, which are not opened")
