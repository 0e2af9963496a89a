"""How much an edit of a clip changed, and how steady it is, frame by frame."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from hasten.measuring.video import estimated_flow, flicker, warp_error
from hasten.media.framing import cropped_back
from hasten.media.reading import open_clip

STILL = 0.02  # of pixels from 0 to 1; codecs change by less what stands still

Flow = Callable[[torch.Tensor, int], tuple[torch.Tensor, torch.Tensor]]
"""Gives the optical flow (1, 2, h, w) between two consecutive frames (2, 3, h, w) of the source,
and where it is valid (1, h, w); the number is that of the first one."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measures:
    """What was measured of one clip, in pixel values from 0 to 1.

    Attributes:
        strength: mean absolute change of every frame from the source.
        flicker: from each frame to the next, mean absolute change of the pixels that stand still in
            the source; None where none does.
        warp_error: mean absolute difference of each frame and the next one warped back by the flow
            of the source; None where no pixel can be followed. Empty where the flow is not known.
    """

    strength: list[float] = dataclasses.field(default_factory=list)
    flicker: list[float | None] = dataclasses.field(default_factory=list)
    warp_error: list[float | None] = dataclasses.field(default_factory=list)

    def means(self) -> dict[str, float | None]:
        """The mean of each over the frames where it was measured."""
        return {field.name: _mean(getattr(self, field.name)) for field in dataclasses.fields(self)}


def known_flow() -> Flow | None:
    """DIS flow where OpenCV is installed."""
    if importlib.util.find_spec("cv2") is None:
        return None
    return lambda pair, _: estimated_flow(pair)


def measured(clips: Sequence[str | Path], flow: Flow | None = None) -> list[Measures]:
    """The measures of ``clips``: the source first, then edits of it with as many frames. The files
    are read side by side, a frame at a time.

    Args:
        flow: of the source; None leaves the warp error out.

    Raises:
        UserError: a file cannot be read, or breaks off.
    """
    out = [Measures() for _ in clips]
    before: list[torch.Tensor] = []
    with contextlib.ExitStack() as stack:
        readers = [stack.enter_context(open_clip(clip)) for clip in clips]
        size = (readers[0].facts.height, readers[0].facts.width)
        for number, found in enumerate(zip(*readers, strict=True)):
            # A file of H.264 has even sides, and so a doubled row that its source has not.
            frames = [cropped_back(pixels[:3].float() / 255, size) for pixels, _ in found]
            for each, frame in zip(out, frames, strict=True):
                each.strength.append(float((frame - frames[0]).abs().mean()))
            if before:
                pairs = [torch.stack(pair) for pair in zip(before, frames, strict=True)]
                _measure_step_(out, pairs, flow, number - 1)
            before = frames
    return out


def _measure_step_(
    out: list[Measures], pairs: list[torch.Tensor], flow: Flow | None, number: int
) -> None:
    """Add what two consecutive frames of every clip show."""
    first, second = pairs[0]
    still = (second - first).abs().amax(0) < STILL
    moves = None if flow is None else flow(pairs[0], number)
    for each, pair in zip(out, pairs, strict=True):
        each.flicker.append(flicker(pair, still) if bool(still.any()) else None)
        if moves is not None:
            valid = bool(moves[1].any())
            each.warp_error.append(warp_error(pair, *moves) if valid else None)


def _mean(values: Sequence[float | None]) -> float | None:
    found = [value for value in values if value is not None]
    return sum(found) / len(found) if found else None
