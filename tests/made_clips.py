"""Small video files, made by PyAV, for the tests that read and write clips."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch

SOUND = 44100  # samples a second
Matrix = tuple[int, int, int, int]  # a, b, c, d of a display matrix


def moving(frames: int = 10, height: int = 48, width: int = 64, channels: int = 3) -> torch.Tensor:
    """Smooth colours (frames, c, h, w) in uint8 that change from frame to frame."""
    t = torch.arange(frames).view(-1, 1, 1, 1) * 6.0
    y = torch.linspace(0, 90, height).view(1, 1, -1, 1)
    x = torch.linspace(0, 90, width).view(1, 1, 1, -1)
    planes = [60 + x + y / 2 + t / 2, 40 + y + t, 150 - x / 2 + 0 * y - t, 40 + x + y + 0 * t]
    planes = [plane.expand(frames, 1, height, width) for plane in planes[:channels]]
    return torch.cat(planes, 1).clamp(0, 255).to(torch.uint8)


def sweep(seconds: float, rate: int = SOUND) -> np.ndarray:
    """A tone that rises from 200 Hz, so that every moment sounds different."""
    t = np.arange(int(seconds * rate)) / rate
    return (0.5 * np.sin(2 * np.pi * (200 * t + 300 * t**2))).astype(np.float32)


def make_clip(
    path: Path,
    frames: torch.Tensor,
    codec: str = "libx264",
    pixels: str = "yuv420p",
    *,
    rate: int = 10,
    times: Sequence[int] | None = None,
    time_base: Fraction | None = None,
    sound: str | None = None,
    sound_start: float = 0.0,
    codec_options: dict[str, str] | None = None,
    options: dict[str, str] | None = None,
    container: str | None = None,
    colours: dict[str, int] | None = None,
    tags: dict[str, str] | None = None,
) -> Path:
    """Write frames (n, c, h, w) in uint8, or frames of PyAV, to ``path``, with a sweep as sound."""
    with av.open(str(path), "w", format=container, options=options or {}) as output:
        stream = output.add_stream(codec, rate=rate, options=codec_options or {})
        stream.pix_fmt = pixels
        first = _frame(frames[0])
        stream.width, stream.height = first.width, first.height
        base = time_base or Fraction(1, rate)
        stream.codec_context.time_base = base
        stream.metadata.update(tags or {})
        for name, value in (colours or {}).items():
            setattr(stream.codec_context, name, value)
        audio = None if sound is None else output.add_stream(sound, rate=SOUND)
        if audio is not None:
            audio.codec_context.layout = "mono"
        for number, pixels_of_one in enumerate(frames):
            frame = _frame(pixels_of_one)
            frame.pts = number if times is None else times[number]
            frame.time_base = base
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
        if audio is not None:
            end = (len(frames) if times is None else times[-1] + 1) * float(base)
            _add_sound(output, audio, max(end, len(frames) / rate), sound_start)
    return path


def turn(path: Path, matrix: Matrix) -> None:
    """Write a display matrix into the track of an MP4 or MOV, in parts of 1."""
    content = bytearray(path.read_bytes())
    at = content.index(b"tkhd") + 44
    a, b, c, d = (round(value * 65536) for value in matrix)
    content[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(content)


def packets(path: Path, kind: str) -> list[tuple[int, bytes]]:
    """Times and bytes of the packets of the first stream of that kind."""
    with av.open(str(path)) as container:
        stream = getattr(container.streams, kind)[0]
        return [(packet.pts, bytes(packet)) for packet in container.demux(stream) if packet.size]


def heard(path: Path) -> np.ndarray:
    """The samples of the first sound track, from time 0 on."""
    with av.open(str(path)) as container:
        resampler = av.AudioResampler("fltp", "mono", SOUND)
        start, pieces = 0, []
        for frame in container.decode(audio=0):
            start = start if pieces else round(frame.pts * frame.time_base * SOUND)
            pieces += [piece.to_ndarray()[0] for piece in resampler.resample(frame)]
    samples = np.concatenate(pieces)
    return np.concatenate([np.zeros(max(start, 0), np.float32), samples[max(-start, 0) :]])


def _frame(pixels: object) -> av.VideoFrame:
    if isinstance(pixels, av.VideoFrame):
        return pixels
    array = np.ascontiguousarray(np.moveaxis(np.asarray(pixels), 0, -1))
    if array.shape[-1] == 1:
        return av.VideoFrame.from_ndarray(np.ascontiguousarray(array[..., 0]), format="gray")
    return av.VideoFrame.from_ndarray(array, format="rgba" if array.shape[-1] == 4 else "rgb24")


def _add_sound(
    output: av.container.OutputContainer, stream: av.AudioStream, seconds: float, start: float
) -> None:
    wave = sweep(seconds)
    for at in range(0, len(wave), 1000):
        part = wave[at : at + 1000][None]
        frame = av.AudioFrame.from_ndarray(part, format="fltp", layout="mono")
        frame.sample_rate, frame.time_base = SOUND, Fraction(1, SOUND)
        frame.pts = at + round(start * SOUND)
        output.mux(stream.encode(frame))
    output.mux(stream.encode(None))
