"""Measures of video edits: consistency over time, what was kept, and how much was changed.

Read consistency beside :func:`edit_strength`: an edit that does nothing is perfectly consistent.
On drawn clips (:mod:`hasten.data.shapes.motion`) the flow, the masks and what a caption asks for
are known, so every measure is exact. Clips are floats (frames, c, h, w) in [0, 1].
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F

from hasten.core.errors import NonFiniteError, UserError, require
from hasten.core.report import Estimate
from hasten.data.shapes.motion_captions import AskedMotion, asked_motion
from hasten.measuring.precision_recall import wilson
from hasten.measuring.prompts import found
from hasten.measuring.tracks import KEPT, Followed, followed

RETURNS = 0.01, 0.5  # how far forward and backward flow may disagree: a share, and pixels squared
GREY = 0.299, 0.587, 0.114  # of red, green and blue, ITU-R BT.601


@dataclasses.dataclass(frozen=True, kw_only=True)
class MotionAccuracy:
    """The share of ``n`` clips that show what their captions ask, in motion, with its 95% interval.

    ``parts``: the share with the right ``things`` in nine of ten frames, and with the right
    ``motion``.
    """

    share: Estimate
    n: int
    parts: dict[str, float]


def motion_accuracy(clips: torch.Tensor, captions: Sequence[str]) -> MotionAccuracy:
    """How many of ``clips`` (n, frames, 3, 64, 64) in [0, 1] show the things that their
    ``captions`` ask for in 90% of frames or more, moving as asked.

    Raises:
        UserError: clips of another shape; not as many captions; one that the grammar does not read.
    """
    require(
        clips.ndim == 5 and clips.shape[1] > 1,
        f"clips have the shape {tuple(clips.shape)}; they take (n, frames, 3, 64, 64), with two "
        "frames or more.",
    )
    require(
        len(clips) == len(captions) > 0,
        f"there are {len(captions)} captions for {len(clips)} clips; give one a clip.",
    )
    pairs = zip(clips, [asked_motion(caption) for caption in captions], strict=True)
    verdicts = [_followed(clip, wanted) for clip, wanted in pairs]
    parts = {
        "things": float(np.mean([verdict.kept >= KEPT for verdict in verdicts])),
        "motion": float(np.mean([verdict.moved for verdict in verdicts])),
    }
    met = wilson(sum(verdict.met for verdict in verdicts), len(verdicts))
    return MotionAccuracy(share=met, n=len(verdicts), parts=parts)


def identity(clip: torch.Tensor, caption: str) -> float:
    """The share of frames of ``clip`` (frames, 3, 64, 64) in which the objects that ``caption``
    asks for, and no others, have the shape, colour and size that they have in most frames; any
    size where they are asked to grow or shrink.

    Raises:
        UserError: a clip of another shape, or a caption that the grammar does not read.
    """
    _require_clip("clip", clip)
    return _followed(clip, asked_motion(caption)).kept


def _followed(clip: torch.Tensor, wanted: AskedMotion) -> Followed:
    return followed(found(clip.detach().cpu()), wanted)


def warp_error(clip: torch.Tensor, flow: torch.Tensor, valid: torch.Tensor) -> float:
    """Mean absolute difference of every frame and the next one warped back by ``flow``, in pixel
    values (0 to 1), over the pixels that are ``valid``.

    After Lai et al. 1808.00449, with absolute in the place of squared differences. The next frame
    is sampled bilinearly; what lies beyond the picture has the values of its border.

    Args:
        flow: (frames - 1, 2, h, w), to the right and down in pixels, from each frame to the next:
            of the source where an edit is measured.
        valid: (frames - 1, h, w) or (h, w), true where the pixel is seen in the next frame too.

    Raises:
        UserError: shapes that do not fit, or no pixel is valid.
    """
    _require_clip("clip", clip)
    steps, size = clip.shape[0] - 1, tuple(clip.shape[2:])
    require(
        tuple(flow.shape) == (steps, 2, *size),
        f"flow has the shape {tuple(flow.shape)}; a clip of {steps + 1} frames takes "
        f"{(steps, 2, *size)}.",
    )
    difference = (_warped(clip[1:].float(), flow.float()) - clip[:-1].float()).abs()
    return _mean_where("valid", difference, valid)


def _warped(frames: torch.Tensor, flow: torch.Tensor) -> torch.Tensor:
    """``frames`` (n, c, h, w) at the places to which ``flow`` (n, 2, h, w) leads each pixel."""
    height, width = frames.shape[2:]
    down, across = torch.meshgrid(
        torch.arange(height, device=flow.device),
        torch.arange(width, device=flow.device),
        indexing="ij",
    )
    # From -1, the middle of the first pixel, to 1, that of the last.
    x = 2 * (across + flow[:, 0]) / max(width - 1, 1) - 1
    y = 2 * (down + flow[:, 1]) / max(height - 1, 1) - 1
    places = torch.stack([x, y], dim=-1)
    return F.grid_sample(frames, places, padding_mode="border", align_corners=True)


def estimated_flow(clip: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The optical flow of ``clip`` as :func:`warp_error` takes it, and where it is valid: by DIS
    (Kroeger et al. 1603.03590), which needs no weights.

    A pixel is valid where the flow forward and then backward leads it back to its place, as in
    Ruder et al. 1604.08610.

    Raises:
        UserError: OpenCV is not installed, or ``clip`` is none of 1 or 3 channels.
    """
    _require_clip("clip", clip)
    require(
        clip.shape[1] in (1, 3), f"clip has {clip.shape[1]} channels; flow is estimated of 1 or 3."
    )
    weights = torch.tensor(GREY if clip.shape[1] == 3 else (1.0,)).view(-1, 1, 1)
    grey = (clip.detach().cpu().float().clamp(0, 1) * weights).sum(1)
    frames = (grey * 255).round().to(torch.uint8).numpy()
    forward = _dis(frames[:-1], frames[1:])
    backward = _warped(_dis(frames[1:], frames[:-1]), forward)
    apart = (forward + backward).square().sum(1)
    share, pixels = RETURNS
    allowed = share * (forward.square() + backward.square()).sum(1) + pixels
    return forward, apart <= allowed


def _dis(before: np.ndarray, after: np.ndarray) -> torch.Tensor:
    """DIS flow (n, 2, h, w) between grey frames uint8 (n, h, w)."""
    try:
        import cv2  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UserError(
            f"estimating flow needs OpenCV ({error}); run pip install opencv-python-headless."
        ) from error
    estimator = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    flows = [estimator.calc(*pair, None) for pair in zip(before, after, strict=True)]
    return torch.from_numpy(np.stack(flows)).permute(0, 3, 1, 2).contiguous()


def flicker(clip: torch.Tensor, still: torch.Tensor) -> float:
    """Mean absolute difference of consecutive frames, in pixel values (0 to 1), over the pixels
    ``still``, (h, w) or (frames - 1, h, w), where nothing should change: of drawn clips
    :func:`hasten.data.shapes.motion.unchanged`.

    Raises:
        UserError: shapes that do not fit, or no pixel is still.
    """
    _require_clip("clip", clip)
    return _mean_where("still", (clip[1:].float() - clip[:-1].float()).abs(), still)


def background_psnr(edited: torch.Tensor, source: torch.Tensor, mask: torch.Tensor) -> float:
    """Peak signal-to-noise ratio in dB, for a peak of 1, of what lies outside ``mask``, (h, w) or
    (frames, h, w), where an edit should keep its source: infinite where it does.

    Raises:
        UserError: shapes that do not fit, or nothing lies outside.
    """
    _require_pair(edited, source)
    error = _mean_where("mask", (edited.float() - source.float()).square(), mask, outside=True)
    return -10 * math.log10(error) if error > 0 else math.inf


def edit_strength(edited: torch.Tensor, source: torch.Tensor, mask: torch.Tensor) -> float:
    """Mean absolute change, in pixel values (0 to 1), of what lies inside ``mask``, (h, w) or
    (frames, h, w).

    Raises:
        UserError: shapes that do not fit, or nothing lies inside.
    """
    _require_pair(edited, source)
    return _mean_where("mask", (edited.float() - source.float()).abs(), mask)


def _require_clip(name: str, clip: torch.Tensor) -> None:
    require(
        clip.ndim == 4 and clip.shape[0] > 1 and clip.is_floating_point(),
        f"{name} is {clip.dtype} of the shape {tuple(clip.shape)}; it takes floats (frames, c, h, "
        "w), with two frames or more.",
    )
    if not bool(torch.isfinite(clip).all()):
        raise NonFiniteError(f"{name} holds NaN or infinity; nothing was measured.")


def _require_pair(edited: torch.Tensor, source: torch.Tensor) -> None:
    _require_clip("edited", edited)
    require(
        edited.shape == source.shape,
        f"edited has the shape {tuple(edited.shape)}, and source {tuple(source.shape)}; give two "
        "clips of one shape.",
    )


def _mean_where(
    name: str, values: torch.Tensor, where: torch.Tensor, *, outside: bool = False
) -> float:
    """The mean of ``values`` (n, c, h, w) over the pixels ``where``, (n, h, w) or (h, w), or over
    all others."""
    n, channels, *size = values.shape
    require(
        where.dtype == torch.bool and tuple(where.shape) in [(n, *size), tuple(size)],
        f"{name} is {where.dtype} of the shape {tuple(where.shape)}; it takes booleans "
        f"{(n, *size)} or {tuple(size)}.",
    )
    chosen = (where ^ outside).expand(n, *size)[:, None]
    require(
        bool(chosen.any()),
        f"{name} holds {'every' if outside else 'no'} pixel; leave one to be measured.",
    )
    return float(values.double()[chosen.expand(n, channels, *size)].mean())
