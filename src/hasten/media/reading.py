"""Video files as frames: read one after the other, upright, in RGB, with the time of each."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Generator, Iterator
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Self, cast

import torch

from hasten.core.errors import UserError, require, require_whole
from hasten.media.boxes import stops_short
from hasten.media.frame_pixels import has_alpha, require_size, rgb_of
from hasten.media.local_files import DECODED, KINDS, container_of, local_file, name_of, reason
from hasten.media.orientation import orientation_of
from hasten.media.pictures import count
from hasten.media.video import require_av

if TYPE_CHECKING:
    from av import Packet, VideoFrame
    from av.container import InputContainer
    from av.video.codeccontext import VideoCodecContext
    from av.video.stream import VideoStream

MOST_FRAMES = 4096  # that read_all holds, unless it is told otherwise
MOST_IN_ALL = 500 * 10**6  # pixels, likewise: 240 frames of 1920x1080
USUAL = Fraction(25)  # frames per second of a file that does not say
FASTEST = 1000  # frames per second; a file that says more tells the unit of its times


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClipFacts:
    """What a video file says of itself, the frame size as its first frame has it.

    ``frames`` and ``duration`` (seconds) are what the header claims, and None where it does not.

    Args:
        width: pixels of an upright frame.
        height: likewise.
        rate: frames per second, on average.
        time_base: seconds that the times of frames are multiples of.
        rotation: degrees by which stored frames were turned clockwise to be upright.
        mirrored: whether they were then mirrored from left to right.
        pixel_aspect: width of a pixel for its height; 1 for square pixels.
        interlaced: whether a frame holds two fields; they are read as they are, woven.
    """

    width: int
    height: int
    rate: Fraction
    time_base: Fraction
    frames: int | None
    duration: Fraction | None
    has_audio: bool
    has_alpha: bool
    rotation: int
    mirrored: bool
    pixel_aspect: Fraction
    interlaced: bool


def open_clip(source: str | Path | BinaryIO) -> ClipReader:
    """A video file, a GIF or a picture, to be read frame by frame in a ``with`` block.

    Args:
        source: a path, or a binary file that can seek, which stays open.

    Raises:
        UserError: it is no local file, holds no frame that can be read, or its frames have sides
            below 2 or above 8192 pixels, or more than 8192 x 4320 pixels.
    """
    require_av()
    return ClipReader(local_file(source))


class ClipReader:
    """The frames of one clip, read once; its first frame is decoded when it is opened.

    It holds a few frames at a time, whatever the length.

    Args:
        source: a file; or the name of what is live, with the ``container`` that it comes in.

    Attributes:
        facts: what is known of the clip.
        source: where it is read from.
        start: the file's own time of the first frame, in seconds.
    """

    def __init__(
        self, source: Path | BinaryIO | str, container: InputContainer | None = None
    ) -> None:
        self.source = source
        self._name = name_of(source)
        self._count, self._size = 0, None  # of the frames that were decoded
        self._file: BinaryIO | None = None
        with contextlib.ExitStack() as stack:
            if container is not None:
                stack.enter_context(container)
            else:
                assert not isinstance(source, str)
                container, self._file = stack.enter_context(container_of(source))
            self._stream = _pictures(container, self._name)
            self._decoder = _decoder(self._stream, self._name)
            decoded = self._decoded(container)
            first = next(decoded)
            self._frames = itertools.chain([first], decoded)
            self._orientation = orientation_of(first, _tag(self._stream))
            self.facts = self._facts(container, first)
            self.start = (first.pts or 0) * self.facts.time_base
            # PyAV crashes where a container is closed while packets are read from it.
            stack.callback(decoded.close)
            self._open = stack.pop_all()
        self._started = self._closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file, where the reader opened it."""
        self._closed = True
        self._open.close()

    def __iter__(self) -> Iterator[tuple[torch.Tensor, Fraction]]:
        """Each frame as uint8 (3, h, w), or (4, h, w) with alpha, and its time in seconds.

        The first is at 0, and each is later than the one before. Frames without a time follow at
        the rate.

        Raises:
            UserError: the file breaks off or is damaged (after the frames before), its frames
                change their size, or it was read before.
        """
        self._require_open()
        require(not self._started, f"{self._name} was read already; open it again.")
        self._started = True
        return self._upright()

    def read_all(
        self, most_frames: int = MOST_FRAMES, most_pixels: int = MOST_IN_ALL
    ) -> tuple[torch.Tensor, list[Fraction]]:
        """All frames as one tensor (n, c, h, w) in uint8, and their times.

        It needs room for the frames twice.

        Raises:
            UserError: there are more frames, or more pixels in all; counted while they are decoded,
                whatever the header says. Or the file breaks off.
        """
        require_whole("most_frames", most_frames, 1, 10**9)
        require_whole("most_pixels", most_pixels, 1, 10**12)
        width, height = self.facts.width, self.facts.height
        room = min(most_frames, most_pixels // (width * height))
        frames, times = [], []
        for pixels, time in self:
            require(
                len(frames) < room,
                f"{self._name} has more than {room} frames of {width}x{height} pixels, which is "
                "the most that is read at once; read it frame by frame, or a part of it.",
            )
            frames.append(pixels)
            times.append(time)
        return torch.stack(frames), times

    def _upright(self) -> Iterator[tuple[torch.Tensor, Fraction]]:
        from av.video.reformatter import VideoReformatter

        reformatter, facts = VideoReformatter(), self.facts
        last: Fraction | None = None
        for frame in self._frames:
            if frame.pts is None:
                time = Fraction(0) if last is None else last + 1 / facts.rate
            else:
                time = frame.pts * facts.time_base - self.start
            if last is not None and time <= last:
                time = last + facts.time_base
            pixels = rgb_of(frame, facts.has_alpha, reformatter)
            yield self._orientation.upright(pixels), time
            self._require_open()
            last = time
        self._require_open()

    def _require_open(self) -> None:
        require(not self._closed, f"{self._name} is closed; read it inside its with block.")

    def _decoded(self, container: InputContainer) -> Generator[VideoFrame, None, None]:
        import av

        why = None
        try:
            for packet in container.demux(self._stream):
                if packet.is_corrupt:
                    why = "a part is missing"
                    break
                yield from self._frames_of(packet)
        except (av.FFmpegError, OSError) as error:
            why = reason(error)
        if why is not None:
            with contextlib.suppress(av.FFmpegError):
                yield from self._frames_of(None)  # what the decoder still holds
        elif self._count == 0:
            why = "it is empty"
        elif (
            self._file is not None
            and not 0 < self._stream.frames <= self._count
            and stops_short(self._file)
        ):
            why = "the file ends too early"
        if why is not None:
            raise self._broken(why)

    def _frames_of(self, packet: Packet | None) -> Iterator[VideoFrame]:
        for frame in self._decoder.decode(packet):
            if self._size is None:
                require_size(self._name, frame.width, frame.height)
                self._size = frame.width, frame.height
            if frame.is_corrupt:
                raise self._broken("a frame is damaged")
            if (frame.width, frame.height) != self._size:
                raise self._broken("the next frame has another size")
            yield frame
            self._count += 1

    def _broken(self, why: str) -> UserError:
        if self._count == 0:
            return UserError(f"{self._name} holds no frame that can be read ({why}); {KINDS}.")
        return UserError(
            f"{self._name} breaks off after {count(self._count, 'frame')} ({why}); copy it again, "
            "or let ffmpeg write it anew."
        )

    def _facts(self, container: InputContainer, first: VideoFrame) -> ClipFacts:
        stream, orientation = self._stream, self._orientation
        width, height = first.width, first.height
        aspect = stream.sample_aspect_ratio or Fraction(1)
        if orientation.swapped:
            width, height, aspect = height, width, 1 / aspect
        rates = (stream.average_rate, stream.guessed_rate, stream.base_rate)
        base = stream.time_base or 1 / USUAL
        duration = None if stream.duration is None else stream.duration * base
        if duration is None and container.duration is not None:
            duration = Fraction(container.duration, 1_000_000)  # AV_TIME_BASE
        return ClipFacts(
            width=width,
            height=height,
            rate=next((rate for rate in rates if rate and 0 < rate <= FASTEST), USUAL),
            time_base=base,
            frames=stream.frames or None,
            duration=duration if duration and duration > 0 else None,
            has_audio=len(container.streams.audio) > 0,
            has_alpha=has_alpha(first),
            rotation=orientation.rotation,
            mirrored=orientation.mirrored,
            pixel_aspect=aspect,
            interlaced=first.interlaced_frame,
        )


def _pictures(container: InputContainer, name: str) -> VideoStream:
    """The first stream of moving pictures; the cover of a song is none."""
    from av.stream import Disposition

    cover = Disposition.attached_pic | Disposition.timed_thumbnails
    for stream in container.streams.video:
        if not stream.disposition & cover:
            return stream
    only = " (only sound)" if container.streams.audio else ""
    raise UserError(f"{name} holds no pictures{only}; {KINDS}.")


def _decoder(stream: VideoStream, name: str) -> VideoCodecContext:
    """What decodes ``stream``, after its header was checked: the size first, so that no memory is
    taken for a frame that is too large."""
    import av

    decoder = stream.codec_context
    require(decoder is not None, f"{name} is in a codec that this PyAV cannot decode; convert it.")
    if decoder.width and decoder.height:
        require_size(name, decoder.width, decoder.height)
    if stream.metadata.get("alpha_mode") == "1" and decoder.name in ("vp8", "vp9"):
        own = decoder  # FFmpeg's own decoders of WebM drop the transparency
        library = "libvpx" if own.name == "vp8" else "libvpx-vp9"
        decoder = cast("VideoCodecContext", av.CodecContext.create(library, "r"))
        decoder.extradata = own.extradata
    decoder.options = {**decoder.options, "max_pixels": str(DECODED)}
    return decoder


def _tag(stream: VideoStream) -> str | None:
    """Degrees clockwise in the tag ``rotate`` of older files, in whatever case they write it."""
    return next((v for name, v in stream.metadata.items() if name.lower() == "rotate"), None)
