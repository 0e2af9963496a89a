"""Clips as files: H.264 in MP4, through PyAV."""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Mapping
from pathlib import Path

import torch

from hasten.core.errors import NonFiniteError, UserError, require, require_whole
from hasten.core.files import write_bytes
from hasten.media.pictures import grid

QUALITY = "18"  # constant rate factor of libx264, at which few people see a difference
SHOWN = 8  # frames of each clip of a clip in a sheet
Facts = Mapping[str, object]


def require_av() -> None:
    """Refuse where PyAV is missing, before a clip is made.

    Raises:
        UserError: it is.
    """
    if importlib.util.find_spec("av") is None:
        raise UserError("writing clips needs PyAV; run pip install 'hasten[video]'.")


def mp4(clip: torch.Tensor, fps: int = 16, facts: Facts | None = None) -> bytes:
    """A clip (frames, c, h, w) in [0, 1], with 1 or 3 channels, as the bytes of an MP4.

    H.264 with colours at half the resolution, which every player shows, takes an even width and
    height: the last column or row of an odd one is doubled.

    Args:
        fps: frames per second.
        facts: written into the file's comment (plan, seed, model).

    Raises:
        NonFiniteError: it holds NaN or infinity.
        UserError: it is no tensor of that shape, or PyAV is not installed.
    """
    require_av()
    import av

    shape = tuple(getattr(clip, "shape", ()))
    require(
        len(shape) == 4 and shape[1] in (1, 3) and shape[0] > 0,
        f"clip has the shape {shape}; it takes (frames, c, h, w) with 1 or 3 channels.",
    )
    require_whole("fps", fps, 1, 240)
    if not bool(torch.isfinite(clip).all()):
        raise NonFiniteError("the clip holds NaN or infinity; nothing was written.")
    odd = clip.shape[-1] % 2, clip.shape[-2] % 2
    pixels = (clip.detach().cpu().float().clamp(0, 1) * 255).round().expand(-1, 3, -1, -1)
    even = torch.nn.functional.pad(pixels, (0, odd[0], 0, odd[1]), mode="replicate")
    frames = even.to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
    file = io.BytesIO()
    with av.open(file, "w", format="mp4", options={"movflags": "use_metadata_tags"}) as container:
        container.metadata.update({f"hasten:{name}": str(v) for name, v in (facts or {}).items()})
        stream = container.add_stream("libx264", rate=fps, options={"crf": QUALITY})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    return file.getvalue()


def save_mp4(
    clip: torch.Tensor, file: str | Path, fps: int = 16, facts: Facts | None = None
) -> None:
    """Write :func:`mp4` to ``file``, whole or not at all.

    Raises:
        UserError: the file cannot be written.
    """
    write_bytes(file, mp4(clip, fps, facts))


def sheet_of(clips: torch.Tensor) -> torch.Tensor:
    """Clips (n, frames, c, h, w) as one picture: a row of evenly spread frames for each."""
    shown = min(SHOWN, clips.shape[1])
    picked = torch.linspace(0, clips.shape[1] - 1, shown).round().long()
    return grid(clips[:, picked].flatten(0, 1).cpu(), shown)
