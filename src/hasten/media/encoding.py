"""Frames and the sound of the clip they are made from, as the packets of an open container."""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterable
from fractions import Fraction
from typing import TYPE_CHECKING

import torch

from hasten.core.errors import NonFiniteError, require
from hasten.media.frame_pixels import as_bytes
from hasten.media.h264 import H264
from hasten.media.reading import ClipFacts, ClipReader
from hasten.media.sound import Sound

if TYPE_CHECKING:
    from av import Packet
    from av.container import OutputContainer

FINEST = Fraction(1, 90_000)  # seconds; the clock of MPEG, which common frame rates divide


class Encoder:
    """Encodes frames as H.264 and copies the sound beside them.

    Args:
        size: width and height in pixels.
        rate: frames per second.
        audio_from: the open clip whose sound is copied.
        like: facts of the clip whose frame times and pixel shape are kept; by default those of
            ``audio_from``.
        live: every frame is written at once.

    Attributes:
        written: how many frames were.
    """

    def __init__(
        self,
        output: OutputContainer,
        size: tuple[int, int],
        rate: Fraction,
        *,
        audio_from: ClipReader | None = None,
        like: ClipFacts | None = None,
        live: bool = False,
    ) -> None:
        like = like or (audio_from.facts if audio_from else None)
        self.written = 0
        self._output, self._size, self._rate = output, size, rate
        self._time_base = _time_base(rate, like)
        self._last: int | None = None  # time of the frame written last
        self._pictures = H264(
            output,
            size,
            rate,
            time_base=self._time_base,
            pixel_aspect=like.pixel_aspect if like else Fraction(1),
            live=live,
        )
        self._sound = None
        if audio_from is not None and audio_from.facts.has_audio:
            self._sound = Sound(audio_from, output)

    def close(self) -> None:
        """Close the clip that the sound is from."""
        if self._sound is not None:
            self._sound.close()

    def add(self, frame: torch.Tensor, time: Fraction | float | None = None) -> None:
        """Encode a frame (3, h, w) or (1, h, w), in [0, 1] or uint8, that is shown at ``time``, in
        seconds; by default one frame after the last.

        Raises:
            NonFiniteError: it holds NaN or infinity.
            UserError: it has another shape, or is not later than the last.
            OSError, FFmpegError: it cannot be written.
        """
        pixels = self._pixels(frame)
        ticks = self._ticks(time)
        self._pictures.add(pixels, ticks)
        self._last = ticks
        self.written += 1
        if self._sound is not None:
            self._mux(self._sound.packets(ticks * self._time_base))

    def finish(self) -> None:
        """Write what the encoders still hold, at the end."""
        self._pictures.finish()
        if self._sound is not None:
            end = (self._last or 0) * self._time_base + 1 / self._rate
            self._mux(self._sound.packets(end))
            self._mux(self._sound.rest())

    def _mux(self, packets: Iterable[Packet]) -> None:
        for packet in packets:
            self._output.mux(packet)

    def _pixels(self, frame: torch.Tensor) -> torch.Tensor:
        width, height = self._size
        shape = tuple(getattr(frame, "shape", ()))
        require(
            shape in ((3, height, width), (1, height, width)),
            f"frame has the shape {shape}; this clip takes (3, {height}, {width}).",
        )
        if frame.dtype != torch.uint8:
            if not bool(torch.isfinite(frame).all()):
                raise NonFiniteError(f"frame {self.written} holds NaN or infinity.")
            frame = as_bytes(frame)
        return frame.cpu().expand(3, -1, -1)

    def _ticks(self, time: Fraction | float | None) -> int:
        if time is None:
            time = 0 if self._last is None else self._last * self._time_base + 1 / self._rate
        require(
            isinstance(time, numbers.Real) and math.isfinite(time) and time >= 0,
            f"time is {time!r}; it takes seconds from 0.",
        )
        exact = Fraction(time if isinstance(time, numbers.Rational) else float(time))
        ticks = round(exact / self._time_base)
        require(
            self._last is None or ticks > self._last,
            f"time is {float(time):g} seconds; it takes one after the last frame's, "
            f"{float((self._last or 0) * self._time_base):g}.",
        )
        return ticks


def _time_base(rate: Fraction, like: ClipFacts | None) -> Fraction:
    """A unit that both the frames at ``rate`` and the times of the clip are multiples of, if MP4
    has room for it; else that of the clip."""
    base = like.time_base if like else FINEST
    both = Fraction(1, math.lcm(rate.numerator, base.denominator))
    return both if both.denominator < 2**31 else base
