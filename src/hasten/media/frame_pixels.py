"""Frames of PyAV as tensors and back, in the right colours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch

from hasten.core.errors import UserError, require

if TYPE_CHECKING:
    from av import VideoFrame
    from av.video.reformatter import VideoReformatter

SMALLEST, LARGEST = 2, 8192  # pixels of a side of a frame
MOST_PIXELS = 8192 * 4320  # of a frame: 8K
# Numbers of H.273, which FFmpeg uses too.
LIMITED = 1
BT709 = 1
BT601 = 5
UNSPECIFIED = (0, 2, 3)  # 0 says RGB, which is no matrix; 3 is reserved
MATRICES = (1, 4, 5, 6, 7, 9)  # those that swscale converts
HIGH_DYNAMIC_RANGE = (16, 18)  # transfer functions PQ and HLG
# Flags of swscale: bilinear chroma, each column of its own, accurate rounding. Without the last
# two, colours of 4:2:0 are off by up to 5 of 255.
EXACT = 0x2 | 0x2000 | 0x40000


def require_size(name: str, width: int, height: int) -> None:
    """Refuse frames that are too small for H.264, or too large to hold a few of.

    Raises:
        UserError: a side is not from 2 to 8192 pixels, or there are more than 8192 x 4320.
    """
    sides = min(width, height) >= SMALLEST and max(width, height) <= LARGEST
    require(
        sides and width * height <= MOST_PIXELS,
        f"{name} has frames of {width}x{height} pixels; a side takes {SMALLEST} to {LARGEST}, and "
        f"a frame {MOST_PIXELS:,} in all. Scale it first.",
    )


def rgb_of(frame: VideoFrame, alpha: bool, reformatter: VideoReformatter) -> torch.Tensor:
    """A decoded frame as uint8 (3, h, w), or (4, h, w) with ``alpha``, which is not premultiplied.

    Limited and full range and the matrices of BT.601, BT.709, BT.2020, FCC and SMPTE 240M are
    converted. A frame that does not name its matrix is read as players do: BT.709 from 1280 pixels
    wide or 577 high, BT.601 below. PQ and HLG become BT.709: what is brighter than paper white is
    clipped.

    Raises:
        UserError: its colours are written in a way that cannot be converted.
    """
    import av

    layout = "rgba" if alpha else "rgb24"
    colours = _colours(frame)
    try:
        rgb = reformatter.reformat(
            frame,
            format=layout,
            src_colorspace=colours,
            interpolation=EXACT,
            **_sdr(frame),  # type: ignore[arg-type]
        )
    except av.FFmpegError as error:
        raise UserError(
            f"frames of {frame.format.name} with the colour matrix {frame.colorspace} and the "
            f"transfer function {frame.color_trc} cannot be converted to RGB; convert the clip to "
            "BT.709 first."
        ) from error
    # By NumPy, whose copy takes one thread: frames are read beside a network that has the others.
    pixels = torch.from_numpy(np.ascontiguousarray(rgb.to_ndarray().transpose(2, 0, 1)))
    if frame.format.name.startswith("gray") and frame.color_range == LIMITED:
        pixels[:3] = as_bytes((pixels[:3].float() - 16) / 219)  # swscale takes grey as full range
    return pixels


def yuv_of(pixels: torch.Tensor, reformatter: VideoReformatter) -> VideoFrame:
    """Pixels (3, h, w) in uint8 as a frame for H.264: 4:2:0, BT.709, limited range.

    The last column or row of an odd size is doubled, since 4:2:0 takes even ones.
    """
    import av

    height, width = pixels.shape[1:]
    even = (0, width % 2, 0, height % 2)
    pixels = torch.nn.functional.pad(pixels[None].float(), even, mode="replicate")[0]
    array = pixels.to(torch.uint8).permute(1, 2, 0).contiguous().numpy()
    return reformatter.reformat(
        av.VideoFrame.from_ndarray(array, format="rgb24"),
        format="yuv420p",
        dst_colorspace=BT709,
        dst_color_range=LIMITED,
        interpolation=EXACT,
    )


def as_bytes(pixels: torch.Tensor) -> torch.Tensor:
    """Pixels in [0, 1] as uint8 on the CPU; what lies outside is clipped."""
    return (pixels.detach().cpu().float().clamp(0, 1) * 255).round().to(torch.uint8)


def has_alpha(frame: VideoFrame) -> bool:
    """Whether the pixel format of ``frame`` holds transparency."""
    return any(component.is_alpha for component in frame.format.components)


def _colours(frame: VideoFrame) -> int | None:
    """The matrix to read ``frame`` with, where it does not name one that can be converted."""
    if frame.format.is_rgb or frame.colorspace in MATRICES:
        return None
    require(
        frame.colorspace in UNSPECIFIED,
        f"the clip has the colour matrix {frame.colorspace} of H.273, which cannot be converted; "
        "convert it to BT.709 first.",
    )
    return BT709 if frame.width >= 1280 or frame.height > 576 else BT601


def _sdr(frame: VideoFrame) -> Mapping[str, int]:
    if frame.color_trc not in HIGH_DYNAMIC_RANGE:
        return {}
    return {"dst_color_trc": BT709, "dst_color_primaries": BT709}
