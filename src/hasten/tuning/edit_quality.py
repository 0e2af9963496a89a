"""What an edit is like beside the reference edit of the same frames, and whether it is as good."""

from __future__ import annotations

import dataclasses
import math

import torch
import torch.nn.functional as F

from hasten.core.errors import UserError, require
from hasten.data.shapes.captions import asked
from hasten.data.shapes.scenes import SIZE
from hasten.measuring.prompts import found, judged
from hasten.measuring.video import (
    background_psnr,
    edit_strength,
    estimated_flow,
    flicker,
    warp_error,
)

CHANGED = 0.05  # of pixels from 0 to 1: a larger change of the reference belongs to the edit
MARGIN = 2  # pixels around what was changed that belong to it too
STILL = 0.01  # of pixels from 0 to 1: the source stands still where it differs by no more
LEAST_MET = 0.5  # of the frames have to show the prompt, whatever the reference does
LEAST_AGREEMENT = 0.5  # with the reference's change, where no prompt can be checked
UNSEEN_PSNR = 40.0  # dB: what is kept so well need not be kept better
UNSEEN = 0.002  # of pixels from 0 to 1: half a grey level of 255


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measures:
    """What an edit is like; None where that cannot be measured.

    Attributes:
        strength: mean absolute change (pixels 0 to 1) of what the reference edit changed.
        met: the share of frames that show the prompt, where that of drawn shapes can be checked.
        psnr: dB, of what the reference left as it was.
        flicker: over what stands still in the source where the reference changed something.
        warp_error: along the source's optical flow, over what the reference changed.
    """

    strength: float
    met: float | None = None
    psnr: float | None = None
    flicker: float | None = None
    warp_error: float | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison:
    """An edit (``own``) and the reference edit of the same frames; ``agreement`` is the share of
    the reference's change that was made: 0 where nothing was changed, or something else."""

    own: Measures
    reference: Measures
    agreement: float


def compared(
    source: torch.Tensor, edited: torch.Tensor, reference: torch.Tensor, prompt: object
) -> Comparison:
    """``edited`` beside ``reference``, both edits of ``source`` (n, c, h, w) in [0, 1].

    Raises:
        UserError: the reference changes nothing, so nothing can be compared with it.
    """
    changed = (reference - source).abs().amax(1, keepdim=True) > CHANGED
    require(
        bool(changed.any()),
        "the reference edit changes nothing; ask for what the input does not show, or choose "
        "another --method or --guidance.",
    )
    wide = F.max_pool2d(changed.float(), 2 * MARGIN + 1, 1, MARGIN)[:, 0] > 0
    flow = _flow(source)
    own, others = (_measures(source, made, wide, flow, prompt) for made in (edited, reference))
    change, wanted = (edited - source).double(), (reference - source).double()
    agreement = float((change * wanted).sum() / wanted.square().sum())
    return Comparison(own=own, reference=others, agreement=agreement)


def _measures(
    source: torch.Tensor,
    edited: torch.Tensor,
    changed: torch.Tensor,
    flow: tuple[torch.Tensor, torch.Tensor] | None,
    prompt: object,
) -> Measures:
    """What ``edited`` is like; ``changed`` (n, h, w) is what the reference changed."""
    still = (source[1:] - source[:-1]).abs().amax(1) <= STILL
    still = still & changed.any(0)
    valid = changed[:-1] if flow is None else changed[:-1] & flow[1]
    met = _met(edited, prompt)
    if len(source) == 1:  # the measures of clips take two frames or more
        source, edited, changed = (one.repeat_interleave(2, 0) for one in (source, edited, changed))
    return Measures(
        strength=edit_strength(edited, source, changed),
        met=met,
        psnr=None if changed.all() else background_psnr(edited, source, changed),
        flicker=flicker(edited, still) if still.any() else None,
        warp_error=warp_error(edited, flow[0], valid) if flow and valid.any() else None,
    )


def _met(edited: torch.Tensor, prompt: object) -> float | None:
    """The share of frames that show ``prompt``; None where that cannot be checked."""
    if not isinstance(prompt, str) or tuple(edited.shape[1:]) != (3, SIZE, SIZE):
        return None
    try:
        wanted = asked(prompt)
    except UserError:
        return None
    return sum(judged(things, wanted).met for things in found(edited)) / len(edited)


def _flow(source: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor] | None:
    """The optical flow of ``source``; None where it cannot be estimated."""
    try:
        return estimated_flow(source) if len(source) > 1 else None
    except UserError:  # OpenCV is not installed, or the pictures have other channels
        return None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bar:
    """What a measure has to be: ``bound`` at least, or at most."""

    name: str
    value: float
    bound: float
    at_least: bool = True

    @property
    def missing(self) -> float:
        """By what share of the bound it is missed; 0 or below where it is met."""
        if self.value == self.bound:
            return 0.0
        apart = self.bound - self.value if self.at_least else self.value - self.bound
        return apart / max(abs(self.bound), 1e-9)

    def __str__(self) -> str:
        most = "least" if self.at_least else "most"
        return f"{self.name} {self.value:.3g}, and {self.bound:.3g} is asked at {most}"


def bars(found: Comparison, max_loss: float) -> list[Bar]:
    """Every bar that can be told for an edit that may lose the share ``max_loss``.

    Edit strength is one of them, so an edit that does too little fails, however consistent it is.
    """
    own, other = found.own, found.reference
    out = [Bar(name="edit strength", value=own.strength, bound=(1 - max_loss) * other.strength)]
    if own.met is None or other.met is None:
        out.append(Bar(name="agreement", value=found.agreement, bound=LEAST_AGREEMENT))
    else:
        bound = max(other.met - max_loss, LEAST_MET)
        out.append(Bar(name="prompt accuracy", value=own.met, bound=bound))
    if own.psnr is not None and other.psnr is not None:
        bound = min(other.psnr - 20 * math.log10(1 + max_loss), UNSEEN_PSNR)
        out.append(Bar(name="background PSNR", value=own.psnr, bound=bound))
    for name, value, its in (
        ("flicker", own.flicker, other.flicker),
        ("warp error", own.warp_error, other.warp_error),
    ):
        if value is not None and its is not None:
            bound = (1 + max_loss) * its + UNSEEN
            out.append(Bar(name=name, value=value, bound=bound, at_least=False))
    return out
