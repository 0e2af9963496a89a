"""The animations of the documents are made from what edits make."""

from __future__ import annotations

from benchmarks.animations import editing
from PIL import Image


def test_the_clip_and_its_edits_are_shown_side_by_side(tmp_path):
    out = tmp_path / "editing.gif"
    editing(out, count=2, plan="solver=ddim,grid=uniform,steps=1")
    with Image.open(out) as shown:
        assert shown.n_frames == 2
        assert shown.size == (3 * (3 * 66 + 2), 3 * 68)
