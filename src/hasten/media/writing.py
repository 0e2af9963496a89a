"""Frames as a video file: written one after the other, with the sound of the clip they are from."""

from __future__ import annotations

import contextlib
import errno
import numbers
import os
from collections.abc import Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Self

import torch

from hasten.core.errors import UserError, require, require_whole
from hasten.core.files import require_writable
from hasten.media.boxes import cut_to_whole_fragments, stops_short
from hasten.media.encoding import Encoder
from hasten.media.frame_pixels import LARGEST, SMALLEST, require_size
from hasten.media.local_files import container_of
from hasten.media.pictures import count
from hasten.media.reading import FASTEST, ClipFacts, ClipReader
from hasten.media.video import require_av

Facts = Mapping[str, object]
ENDINGS = (".mp4", ".m4v")
# The file is fragments while it is written, which play if it ends early, and becomes an ordinary
# MP4 at the end. The header waits for the first fragment, so that it knows where each track starts.
OPTIONS = {
    "movflags": "hybrid_fragmented+frag_keyframe+delay_moov+use_metadata_tags",
    "movie_timescale": "90000",  # else tracks start at whole milliseconds
}


class ClipWriter:
    """Writes frames to an MP4 that plays everywhere, in a ``with`` block.

    The video is H.264 in 4:2:0, BT.709, limited range. Such a video has even sides, and MP4 as
    FFmpeg writes it has no mark for a part to be cut off: the last column or row of an odd size is
    doubled. The file appears at the end, in place of an older one. Where the block ends with an
    error or Ctrl-C, or the disk is full, the frames so far are kept there as a clip that plays.
    A few frames are held at a time, and some 100 bytes of index for each frame written.

    Args:
        path: the file, whose name ends in .mp4 or .m4v; missing folders are made.
        width: pixels, from 2 to 8192.
        height: likewise.
        rate: frames per second, a whole number or a fraction up to 1000.
        audio_from: the open clip whose sound is copied, as long as frames are written.
        facts: written into the file's comments (plan, seed, model).
        like: facts of the clip whose frame times and pixel shape are kept exactly; by default
            those of ``audio_from``. Without either, pixels are square, and times are rounded to
            1/90000 of a second where the rate does not give them.

    Attributes:
        written: how many frames were written.

    Raises:
        UserError: a value is out of range, or the file cannot be written.
    """

    def __init__(
        self,
        path: str | Path,
        width: int,
        height: int,
        rate: int | Fraction,
        audio_from: ClipReader | None = None,
        facts: Facts | None = None,
        like: ClipFacts | None = None,
    ) -> None:
        require_av()
        self.path = require_writable(path)
        require(
            self.path.suffix.lower() in ENDINGS and not self.path.is_dir(),
            f"{self.path} is no name for an MP4; let it end in .mp4.",
        )
        require_whole("width", width, SMALLEST, LARGEST)
        require_whole("height", height, SMALLEST, LARGEST)
        require_size("the clip", width, height)
        require(
            isinstance(rate, numbers.Rational) and 0 < rate <= FASTEST,
            f"rate is {rate!r}; it takes frames per second as a whole number or a Fraction, up to "
            f"{FASTEST}.",
        )
        self._size, self._rate = (int(width), int(height)), Fraction(rate)
        self._audio_from, self._facts, self._like = audio_from, facts or {}, like
        self._encoder: Encoder | None = None
        self._beside = self.path.with_name(f".{self.path.name}.{os.getpid()}.tmp")
        self._open: contextlib.ExitStack | None = None

    def __enter__(self) -> Self:
        import av

        with contextlib.ExitStack() as stack:
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._beside.touch()
            except OSError as error:
                raise UserError(f"{self.path} cannot be written: {error.strerror}.") from error
            stack.callback(self._beside.unlink, missing_ok=True)
            # By its path, not as a file object: a Ctrl-C inside a callback from C would be lost.
            output = av.open(f"file:{self._beside}", "w", format="mp4", options=OPTIONS)
            output.metadata.update({f"hasten:{name}": str(v) for name, v in self._facts.items()})
            self._output = output
            self._encoder = Encoder(
                output, self._size, self._rate, audio_from=self._audio_from, like=self._like
            )
            stack.callback(self._encoder.close)
            self._open = stack.pop_all()
        return self

    @property
    def written(self) -> int:
        """How many frames were written."""
        return 0 if self._encoder is None else self._encoder.written

    def write(self, frame: torch.Tensor, time: Fraction | float | None = None) -> None:
        """Add a frame (3, h, w) or (1, h, w), in [0, 1] or uint8.

        Args:
            time: when it is shown, in seconds; by default one frame after the last.

        Raises:
            NonFiniteError: it holds NaN or infinity.
            UserError: it has another shape, or is not later than the last; or the disk is full,
                and says what was kept.
        """
        require(self._open is not None, "a clip is written inside the with block of its writer.")
        assert self._encoder is not None
        with self._disk():
            self._encoder.add(frame, time)

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        if (
            self._open is None or self._encoder is None
        ):  # the disk was full, and what was kept is in its place
            return
        if self.written == 0:
            self._discard()
            require(kind is not None, f"{self.path} was not written: there was no frame.")
            return
        with self._disk():
            try:
                self._encoder.finish()
            except (UserError, KeyboardInterrupt):  # the sound breaks off, or Ctrl-C once more
                self._place()
                raise
            self._place()
        if kind is not None and issubclass(kind, KeyboardInterrupt):
            raise kind(f"{str(error) or 'stopped'}; {self._kept(self.written)}") from None

    @contextlib.contextmanager
    def _disk(self) -> Iterator[None]:
        """Where the disk fails, keep the fragments that are whole, and say so."""
        import av

        failures = (OSError, av.FFmpegError)  # a full disk; sound that cannot be put into an MP4
        try:
            yield
        except failures as error:
            with contextlib.suppress(*failures):
                self._output.close()
            kept = _frames(self._beside) if cut_to_whole_fragments(self._beside) else 0
            if kept:
                self._beside.replace(self.path)
            self._discard()
            what = self._kept(kept) if kept else "nothing was kept"
            raise UserError(f"{self.path} cannot be written ({error.strerror}); {what}.") from error

    def _kept(self, frames: int) -> str:
        return f"{self.path} holds the first {count(frames, 'frame')} and plays"

    def _place(self) -> None:
        """Write the index, and move the file to where it belongs."""
        self._output.close()
        with self._beside.open("rb+") as file:
            if stops_short(file) or file.seek(0, os.SEEK_END) == 0:
                raise OSError(errno.EIO, "the disk took only a part of it")
            os.fsync(file.fileno())
        self._beside.replace(self.path)
        self._discard()

    def _discard(self) -> None:
        if self._open is not None:
            self._open.close()
            self._open = None


def _frames(path: Path) -> int:
    """How many frames a file holds, without decoding them; none where it does not play."""
    try:
        with container_of(path) as (container, _):
            return sum(packet.size > 0 for packet in container.demux(video=0))
    except UserError:
        return 0
