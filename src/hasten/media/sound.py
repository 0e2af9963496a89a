"""The sound of one clip, in step with the frames of another that is made from it."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

from hasten.core.errors import UserError, require
from hasten.media.local_files import container_of, name_of, reason
from hasten.media.reading import ClipReader

if TYPE_CHECKING:
    from av import AudioFrame, Packet
    from av.audio.stream import AudioStream
    from av.container import InputContainer, OutputContainer

    Piece = tuple[Fraction, Callable[[], list[Packet]]]  # when it is heard, and what makes it

COPIED = ("aac", "mp3", "ac3", "eac3", "alac", "opus")  # what MP4 holds and players play
RATES = (
    *(96000, 88200, 64000, 48000, 44100, 32000),
    *(24000, 22050, 16000, 12000, 11025, 8000),
)  # samples a second that AAC has a name for
USUAL_RATE = 48000
LAYOUTS = {1: "mono", 2: "stereo", 6: "5.1", 8: "7.1"}
BITS = 96_000  # a second, for a channel of AAC
SAMPLES = 1024  # of a frame of AAC
ROUNDING = Fraction(2, 1000)  # seconds that the times in a file may be off


class Sound:
    """The first sound track of a clip, as packets for an MP4; close it at the end.

    It is copied without loss where MP4 holds its codec, else encoded as AAC. Both go by packets of
    some 20 milliseconds, which start where they did. The clip is opened a second time, so that its
    frames can be read meanwhile.

    Raises:
        UserError: the clip was not opened by its path, or its sound cannot be decoded.
    """

    def __init__(self, reader: ClipReader, output: OutputContainer) -> None:
        source = reader.source
        require(
            isinstance(source, Path),
            "audio_from is a clip that was opened as a file object; its sound can be copied where "
            "it is opened by its path.",
        )
        assert isinstance(source, Path)
        self._name, self._start = name_of(source), reader.start
        with contextlib.ExitStack() as stack:
            container, _ = stack.enter_context(container_of(source))
            self._source = container.streams.audio[0]
            codec = self._source.codec_context
            require(
                codec is not None and codec.sample_rate > 0,
                f"the sound of {self._name} is in a codec that this PyAV cannot decode; convert it "
                "to AAC, or leave the sound out.",
            )
            if codec.codec.canonical_name in COPIED:
                self._encoder = None
                pieces = self._copied(container, output.add_stream_from_template(self._source))
            else:
                self._encoder = _aac(output, codec.sample_rate, codec.layout.nb_channels)
                pieces = self._encoded(container, self._encoder)
            self._pieces = self._checked(pieces)
            self._next = next(self._pieces, None)
            self._open = stack.pop_all()

    def close(self) -> None:
        """Close the clip that the sound is from."""
        self._open.close()

    def packets(self, until: Fraction) -> Iterator[Packet]:
        """The packets that begin before ``until`` (seconds after the first frame of the clip) and
        were not given yet.

        Raises:
            UserError: the sound breaks off or is damaged.
        """
        while self._next is not None and self._next[0] < until:
            make, self._next = self._next[1], None  # never twice, should the one after it fail
            yield from make()
            self._next = next(self._pieces, None)

    def rest(self) -> Iterator[Packet]:
        """What the encoder still holds, at the end."""
        if self._encoder is not None:
            yield from self._encoder.encode(None)

    def _copied(self, container: InputContainer, output: AudioStream) -> Iterator[Piece]:
        codec = self._source.codec_context
        clock = _Clock(codec.sample_rate, self._start)
        base = self._source.time_base or clock.tick
        for packet in _without_adts(container.demux(self._source), self._source):
            time = packet.dts if packet.pts is None else packet.pts
            if time is None:  # the end of the file
                continue
            said = round((packet.duration or 0) * base / clock.tick)
            length = codec.frame_size or said
            start = clock.start(time * base, length)
            if start is None:
                continue
            packet.pts = packet.dts = start
            packet.duration = said if base == clock.tick else length
            packet.time_base, packet.stream = clock.tick, output
            if start + length >= 0:  # else it is heard before the first frame
                yield start * clock.tick, functools.partial(list, [packet])

    def _encoded(self, container: InputContainer, output: AudioStream) -> Iterator[Piece]:
        import av

        codec = output.codec_context
        clock = _Clock(codec.sample_rate, self._start)
        resampler = av.AudioResampler("fltp", codec.layout, codec.sample_rate, frame_size=SAMPLES)
        for frame in _and_none(container.decode(self._source)):
            for piece in resampler.resample(frame):
                time = None if piece.pts is None else piece.pts * (piece.time_base or clock.tick)
                start = clock.start(time, piece.samples)
                if start is None:
                    continue
                piece.pts, piece.time_base = start, clock.tick
                if start + piece.samples > 0:
                    yield start * clock.tick, functools.partial(output.encode, piece)

    def _checked(self, pieces: Iterator[Piece]) -> Iterator[Piece]:
        import av

        time = Fraction(0)
        try:
            for time, make in pieces:
                yield time, make
        except (av.FFmpegError, OSError, ValueError) as error:  # ValueError: it changes its form
            raise UserError(
                f"the sound of {self._name} breaks off after {float(max(time, 0)):.2f} seconds "
                f"({reason(error)}); copy it again, or leave the sound out."
            ) from error


class _Clock:
    """Counts samples from the first frame of the clip on. Where the file's own times say the same
    to within their rounding, sound follows without a gap; MKV rounds to milliseconds."""

    def __init__(self, rate: int, zero: Fraction) -> None:
        self.tick = Fraction(1, rate)
        self._zero = zero
        self._last: int | None = None
        self._due = 0

    def start(self, time: Fraction | None, length: int) -> int | None:
        """The sample at which ``length`` more are heard that the file places at ``time``; None
        where that is not after those before, which no MP4 can hold."""
        start = self._due if time is None else round((time - self._zero) / self.tick)
        if self._last is not None:
            if abs(start - self._due) * self.tick <= ROUNDING:
                start = self._due
            if start <= self._last:
                return None
        self._last, self._due = start, start + length
        return start


def _aac(output: OutputContainer, rate: int, channels: int) -> AudioStream:
    """A stream of AAC, with as many channels where they have a usual layout, else two."""
    stream = output.add_stream("aac", rate=rate if rate in RATES else USUAL_RATE)
    layout = LAYOUTS.get(channels, "stereo")
    stream.codec_context.layout = layout  # type: ignore[assignment]  # it takes a name, too
    stream.codec_context.bit_rate = BITS * stream.codec_context.layout.nb_channels
    return stream


def _without_adts(packets: Iterator[Packet], source: AudioStream) -> Iterator[Packet]:
    """AAC of MPEG-TS and bare files has a header in each packet; MP4 takes it once, beside them."""
    from av.bitstream import BitStreamFilterContext

    codec = source.codec_context
    if codec.codec.canonical_name != "aac" or codec.extradata:
        yield from packets
        return
    filtering = BitStreamFilterContext("aac_adtstoasc", source)
    for packet in packets:
        if packet.size:
            yield from filtering.filter(packet)


def _and_none(frames: Iterator[AudioFrame]) -> Iterator[AudioFrame | None]:
    """The frames, and None to flush what takes them."""
    yield from frames
    yield None
