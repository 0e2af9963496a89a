"""Frames as a video in a pipe, for a player or another program."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from fractions import Fraction
from typing import Self

import torch

from hasten.core.errors import UserError, require
from hasten.media.encoding import Encoder
from hasten.media.frame_pixels import require_size
from hasten.media.reading import ClipFacts, ClipReader
from hasten.media.video import require_av

Facts = Mapping[str, object]
STDOUT = 1
# Every frame is sent once the next one comes; by default a second of them is.
OPTIONS = {"live": "1", "flush_packets": "1", "cluster_time_limit": "0"}


class PipeWriter:
    """Writes frames as H.264 in Matroska to a pipe, in a ``with`` block: players read it as it
    comes, and it keeps the times of frames and the sound.

    Args:
        width, height, rate, audio_from, facts, like: as
            :class:`hasten.media.writing.ClipWriter` takes them.
        handle: of the pipe; stdout by default.

    Attributes:
        written: how many frames were written.

    Raises:
        UserError: the handle is a terminal, or the sound cannot be read.
    """

    def __init__(
        self,
        width: int,
        height: int,
        rate: int | Fraction,
        audio_from: ClipReader | None = None,
        facts: Facts | None = None,
        like: ClipFacts | None = None,
        handle: int = STDOUT,
    ) -> None:
        require_av()
        require_size("the clip", width, height)
        require(
            not os.isatty(handle),
            "out is '-', and stdout is a terminal; pipe it to a player, as in | mpv -, or name a "
            "file.",
        )
        self._size, self._rate, self._handle = (width, height), Fraction(rate), handle
        self._audio_from, self._facts, self._like = audio_from, facts or {}, like
        self._encoder: Encoder | None = None
        self._gone = False  # who read the pipe

    @property
    def written(self) -> int:
        return 0 if self._encoder is None else self._encoder.written

    def __enter__(self) -> Self:
        import av

        address = f"pipe:{self._handle}"
        self._output = av.open(address, "w", format="matroska", options=OPTIONS)
        self._output.metadata.update({f"hasten:{key}": str(v) for key, v in self._facts.items()})
        self._encoder = Encoder(
            self._output,
            self._size,
            self._rate,
            audio_from=self._audio_from,
            like=self._like,
            live=True,
        )
        return self

    def write(self, frame: torch.Tensor, time: Fraction | float | None = None) -> None:
        """Add a frame, as :meth:`hasten.media.writing.ClipWriter.write` takes it.

        Raises:
            BrokenPipeError: nobody reads the pipe any more.
            UserError: it has another shape or time, or the pipe cannot be written.
        """
        import av

        require(self._encoder is not None, "a pipe is written inside the with block of its writer.")
        assert self._encoder is not None
        try:
            self._encoder.add(frame, time)
        except (OSError, av.FFmpegError) as error:
            self._gone = True
            if isinstance(error, BrokenPipeError):
                raise BrokenPipeError(*error.args[:2]) from error
            raise UserError(f"the pipe cannot be written ({error.strerror}).") from error

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        import av

        assert self._encoder is not None
        failures = (OSError, av.FFmpegError)
        # Where it ends with an error, that is what is told.
        with contextlib.suppress(*(failures if kind is not None else ())):
            if self._encoder.written and not self._gone:
                self._encoder.finish()
        with contextlib.suppress(*failures):
            self._output.close()
        self._encoder.close()
