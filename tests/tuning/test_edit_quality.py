"""Edits beside a reference whose measures are known by arithmetic."""

from __future__ import annotations

import math

import pytest
import torch

from hasten.core.errors import UserError
from hasten.data.shapes.drawing import drawn
from hasten.data.shapes.scenes import Scene, Thing
from hasten.tuning import edit_quality
from hasten.tuning.edit_quality import Comparison, Measures, bars, compared

SOURCE = torch.full((4, 1, 16, 16), 0.2)


def edited(change: float = 0.4, frames: int = 4, background: float = 0.0) -> torch.Tensor:
    """A square of 4 x 4 pixels changed, and what lies far from it."""
    out = SOURCE[:frames] + 0.0
    out[:, :, 6:10, 6:10] += change
    out[:, :, :, :2] += background
    return out


def missed(made: torch.Tensor, max_loss: float = 0.1, prompt: object = 1) -> set[str]:
    """The bars that an edit of SOURCE misses beside that by ``edited()``."""
    found = compared(SOURCE[: len(made)], made, edited(frames=len(made)), prompt)
    return {bar.name for bar in bars(found, max_loss) if bar.missing > 0}


def test_the_reference_misses_nothing():
    assert missed(edited()) == set()
    assert missed(edited(frames=1)) == set()


def test_an_edit_that_does_nothing_is_too_weak():
    found = compared(SOURCE, SOURCE, edited(), 1)
    assert found.own.strength == 0
    assert found.agreement == 0
    assert missed(SOURCE) == {"edit strength", "agreement"}


def test_strength_counts_relative_to_the_reference():
    found = compared(SOURCE, edited(0.37), edited(), 1)
    assert found.own.strength / found.reference.strength == pytest.approx(0.925, abs=1e-4)
    assert missed(edited(0.37)) == set()
    assert missed(edited(0.35)) == {"edit strength"}


def test_a_change_to_something_else_is_no_edit():
    other = edited(-0.2)
    other[:, :, 4:12, 4:12] -= 0.2  # strong enough, the other way
    assert missed(other.clamp(0, 1)) == {"agreement"}


def test_what_was_to_be_kept_has_to_be_kept():
    found = compared(SOURCE, edited(background=0.02), edited(), 1)
    outside = 256 - 64  # pixels, around the square and two on each side
    wanted = -10 * math.log10(0.02**2 * 32 / outside)
    assert found.own.psnr == pytest.approx(wanted, abs=1e-3)
    assert found.reference.psnr == math.inf
    assert missed(edited(background=0.02)) == set()  # above 40 dB
    assert missed(edited(background=0.05)) == {"background PSNR"}


def test_flicker_of_what_stands_still_is_measured_where_something_was_changed():
    unsteady = edited()
    unsteady[1::2, :, 6:10, 6:10] += 0.1
    found = compared(SOURCE, unsteady, edited(), 1)
    assert found.own.flicker == pytest.approx(0.1 * 16 / 64, abs=1e-5)
    assert missed(unsteady) == {"flicker"}


def test_warp_error_follows_the_flow_of_the_source(monkeypatch):
    flow = torch.zeros(3, 2, 16, 16), torch.ones(3, 16, 16, dtype=torch.bool)
    monkeypatch.setattr(edit_quality, "estimated_flow", lambda clip: flow)
    unsteady = edited()
    unsteady[1::2, :, 6:10, 6:10] += 0.1
    assert compared(SOURCE, unsteady, edited(), 1).own.warp_error == pytest.approx(0.025, abs=1e-5)
    assert missed(unsteady) == {"flicker", "warp error"}


def test_a_reference_that_changes_nothing_is_refused():
    with pytest.raises(UserError, match="the reference edit changes nothing"):
        compared(SOURCE, edited(), SOURCE, 1)


def picture(colour: str) -> torch.Tensor:
    thing = Thing(shape="circle", colour=colour, size="large", x=32, y=32, radius=14)
    return drawn([Scene(things=(thing,), grey=200)]).float() / 255


def test_prompts_of_drawn_shapes_are_checked():
    source, blue, green = (picture(colour) for colour in ("red", "blue", "green"))
    found = compared(source, green, blue, "a large blue circle")
    assert (found.own.met, found.reference.met) == (0.0, 1.0)
    assert "prompt accuracy" in {bar.name for bar in bars(found, 0.1) if bar.missing > 0}
    assert compared(source, green, blue, "a cat on a mat").own.met is None


def test_half_of_the_frames_have_to_show_the_prompt_whatever_the_reference_does():
    own = Measures(strength=0.2, met=0.25)
    found = Comparison(own=own, reference=own, agreement=1.0)
    (bar,) = [bar for bar in bars(found, 0.1) if bar.missing > 0]
    assert (bar.name, bar.missing) == ("prompt accuracy", 0.5)
    assert str(bar) == "prompt accuracy 0.25, and 0.5 is asked at least"
