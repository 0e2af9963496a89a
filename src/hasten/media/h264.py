"""Tensors as the H.264 stream of a container."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING

import torch

from hasten.media.frame_pixels import BT709, LIMITED, yuv_of

if TYPE_CHECKING:
    from av import VideoFrame
    from av.container import OutputContainer

QUALITY = "18"  # constant rate factor of libx264, at which few people see a difference
BETWEEN_KEYS = 2  # seconds from one key frame to the next; what a full disk loses at most, about


class H264:
    """A stream of frames in 4:2:0 with an even width and height, BT.709, limited range.

    Args:
        rate: frames per second, on average.
        time_base: what the times of frames count, in seconds; by default one frame.
        pixel_aspect: width of a pixel for its height.
        live: every frame is written at once and quickly, which takes more bytes.
    """

    def __init__(
        self,
        container: OutputContainer,
        size: tuple[int, int],
        rate: Fraction,
        *,
        time_base: Fraction | None = None,
        pixel_aspect: Fraction = Fraction(1),
        live: bool = False,
    ) -> None:
        from av.video.reformatter import VideoReformatter

        between = max(1, min(250, round(rate * BETWEEN_KEYS)))
        options = {"crf": QUALITY, "g": str(between)}
        if live:
            options |= {"preset": "veryfast", "tune": "zerolatency"}
        stream = container.add_stream("libx264", rate=rate, options=options)
        context = stream.codec_context
        context.width, context.height = (side + side % 2 for side in size)
        context.pix_fmt = "yuv420p"
        context.time_base = self._time_base = time_base or 1 / rate
        context.sample_aspect_ratio = pixel_aspect
        context.color_range = LIMITED
        context.colorspace = context.color_primaries = context.color_trc = BT709
        self._container, self._stream = container, stream
        self._reformatter = VideoReformatter()

    def add(self, pixels: torch.Tensor, time: int) -> None:
        """Encode a frame (3, h, w) in uint8 that is shown at ``time``, and write what is ready.

        Raises:
            OSError: the file cannot be written.
        """
        frame = yuv_of(pixels, self._reformatter)
        frame.pts, frame.time_base = time, self._time_base
        self._write(frame)

    def finish(self) -> None:
        """Write what the encoder still holds, at the end."""
        self._write(None)

    def _write(self, frame: VideoFrame | None) -> None:
        # In one call from C: a Ctrl-C comes before or after it, and loses no packet between the
        # encoder and the file. PyAV's types say that it takes a list; it takes what gives packets.
        self._container.mux(self._stream.encode_lazy(frame))  # type: ignore[arg-type]
