"""Frames cut to what a network takes, and put together again: sizes, and windows in time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch

from hasten.core.errors import require, require_whole

Size = tuple[int, int]


def padded(frames: torch.Tensor, multiple: int) -> tuple[torch.Tensor, Size]:
    """Frames (..., h, w) with both sides a multiple of ``multiple``, and the size they had.

    The last row and column are repeated, below and at the right.

    Raises:
        UserError: ``multiple`` is no whole number from 1 to 4096, or the frames are empty.
    """
    require_whole("multiple", multiple, 1, 4096)
    require(
        frames.ndim >= 2 and min(frames.shape[-2:]) > 0,
        f"frames have the shape {tuple(frames.shape)}; it takes (..., h, w).",
    )
    height, width = frames.shape[-2:]
    for axis, side in ((-2, height), (-1, width)):
        if side % multiple:
            places = torch.arange(side + -side % multiple, device=frames.device)
            frames = frames.index_select(axis, places.clamp(max=side - 1))
    return frames, (height, width)


def cropped_back(frames: torch.Tensor, crop: Size) -> torch.Tensor:
    """The part of frames (..., h, w) that was there before :func:`padded` gave ``crop``.

    Raises:
        UserError: the frames are smaller than that.
    """
    height, width = crop
    require(
        frames.shape[-2] >= height and frames.shape[-1] >= width,
        f"frames have the shape {tuple(frames.shape)}; cropping to {width}x{height} takes more.",
    )
    return frames[..., :height, :width]


def windows(count: int, size: int, overlap: int) -> list[range]:
    """Windows of ``size`` frames that cover ``count``, each sharing ``overlap`` or more with the
    next; they are spread evenly, so that the last is no shorter. A short clip is one window.

    Raises:
        UserError: ``overlap`` is not below ``size``.
    """
    require_whole("count", count, 1, 10**9)
    require_whole("size", size, 1, 10**6)
    require_whole("overlap", overlap, 0, size - 1)
    if count <= size:
        return [range(count)]
    steps = -(-(count - size) // (size - overlap))
    starts = (step * (count - size) // steps for step in range(steps + 1))
    return [range(start, start + size) for start in starts]


def blended(spans: Sequence[range], parts: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
    """The frames of a clip, each as soon as no later window holds it.

    Where two windows share n frames, the later one's weight rises through 1/(n+1), ..., n/(n+1),
    and the earlier one's is the rest: frames that agree come out as they are, bit for bit.

    Args:
        spans: which frames each window holds, as :func:`windows` gives them.
        parts: the frames (n, ...) of each window, in floating point; asked for one by one.

    Raises:
        UserError: a part has another number of frames than its window, or a window is missing.
    """
    held: torch.Tensor | None = None  # frames from the start of the current window on
    done = number = 0
    for number, part in enumerate(parts, 1):
        require(
            number <= len(spans)
            and len(part) == len(spans[number - 1])
            and part.is_floating_point(),
            f"part {number} of {len(spans)} has {len(part)} frames of {part.dtype}; it takes those "
            "of its window, in floating point.",
        )
        held = part if held is None else _joined(held, part)
        later = spans[number].start if number < len(spans) else done + len(held)
        require(
            done <= later <= done + len(held),
            f"window {number + 1} of {len(spans)} starts at frame {later}; it takes {done} to "
            f"{done + len(held)}.",
        )
        yield from held[: later - done]
        held, done = held[later - done :], later
    require(number == len(spans), f"there are {number} parts for {len(spans)} windows; give all.")


def _joined(held: torch.Tensor, part: torch.Tensor) -> torch.Tensor:
    shared = min(len(held), len(part))
    steps = torch.arange(1, shared + 1, dtype=part.dtype, device=part.device) / (shared + 1)
    weight = steps.reshape(-1, *[1] * (part.ndim - 1))
    mixed = held[:shared] + weight * (part[:shared] - held[:shared])
    return torch.cat([mixed, part[shared:], held[shared:]])
