"""Clips as files: H.264 in MP4, through PyAV."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import io
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path

import torch

from hasten.core.errors import NonFiniteError, UserError, require, require_whole
from hasten.core.files import write_bytes
from hasten.media.frame_pixels import as_bytes
from hasten.media.h264 import H264
from hasten.media.pictures import grid

OLDEST = 18  # PyAV
SHOWN = 8  # frames of each clip of a clip in a sheet
Facts = Mapping[str, object]


def require_av() -> None:
    """Refuse where PyAV is missing, before a clip is made or read.

    Raises:
        UserError: it is, or it is older than 18, which crashes on some files.
    """
    if importlib.util.find_spec("av") is None:
        raise UserError("clips need PyAV; run pip install 'hasten[video]'.")
    version = importlib.metadata.version("av")
    require(
        int(version.partition(".")[0]) >= OLDEST,
        f"clips need PyAV {OLDEST} or later, and this is {version}; run pip install -U av.",
    )


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
    frames = as_bytes(clip).expand(-1, 3, -1, -1)
    file = io.BytesIO()
    with av.open(file, "w", format="mp4", options={"movflags": "use_metadata_tags"}) as container:
        container.metadata.update({f"hasten:{name}": str(v) for name, v in (facts or {}).items()})
        stream = H264(container, (frames.shape[-1], frames.shape[-2]), Fraction(fps))
        for number, frame in enumerate(frames):
            stream.add(frame, number)
        stream.finish()
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
