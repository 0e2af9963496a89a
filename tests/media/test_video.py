"""Clips as MP4 files."""

from __future__ import annotations

import importlib.util
import io

import av
import pytest
import torch
from PIL import Image

import hasten
from hasten.core.errors import NonFiniteError
from hasten.media import SampleFolder, mp4


def clip(frames: int = 5, height: int = 32, width: int = 48) -> torch.Tensor:
    """A bright column that moves to the right on a dark ground."""
    out = torch.full((frames, 3, height, width), 0.2)
    for number in range(frames):
        out[number, :, :, 8 * number : 8 * number + 8] = 0.9
    return out


def read(content: bytes) -> torch.Tensor:
    with av.open(io.BytesIO(content), "r") as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return torch.stack([torch.from_numpy(frame) for frame in frames]).movedim(-1, 1).float() / 255


def test_a_clip_that_was_written_is_the_clip():
    assert (read(mp4(clip())) - clip()).abs().mean() < 0.02


def test_any_player_shows_it_at_the_rate_that_was_asked():
    with av.open(io.BytesIO(mp4(clip(), fps=8, facts={"seed": 3}))) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.pix_fmt) == ("h264", "yuv420p")
        assert (stream.average_rate, stream.frames) == (8, 5)
        assert container.metadata["hasten:seed"] == "3"


def test_an_odd_size_gets_one_more_row_and_column():
    odd = clip(height=31, width=47)
    again = read(mp4(odd))
    assert again.shape == (5, 3, 32, 48)
    assert (again[..., :31, :47] - odd).abs().mean() < 0.02


def test_one_channel_is_grey():
    again = read(mp4(clip()[:, :1]))
    assert (again - clip()).abs().mean() < 0.02


def test_every_clip_is_a_file_and_a_row_of_frames(tmp_path):
    clips = torch.stack([clip(11), clip(11).flip(0)])
    folder = SampleFolder(tmp_path / "out", {"seed": 1})
    folder.add(clips[:1])
    folder.add(clips[1:])
    assert folder.close() == ["2 clips", "frames.png"]
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == [
        *("00000.mp4", "00001.mp4", "frames.png")
    ]
    assert Image.open(tmp_path / "out" / "frames.png").size == (8 * 50 + 2, 2 * 34 + 2)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (torch.rand(3, 16, 16), r"clip has the shape \(3, 16, 16\)"),
        (torch.rand(0, 3, 16, 16), "clip has the shape"),
        (torch.rand(2, 4, 16, 16), "1 or 3 channels"),
        (None, "clip has the shape"),
    ],
)
def test_what_is_no_clip_is_refused(wrong, words):
    with pytest.raises(hasten.UserError, match=words):
        mp4(wrong)


def test_nan_and_a_rate_of_no_frames_are_refused():
    with pytest.raises(NonFiniteError):
        mp4(torch.full((2, 3, 16, 16), float("nan")))
    with pytest.raises(hasten.UserError, match="fps"):
        mp4(clip(), fps=0)


def test_without_pyav_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(hasten.UserError, match=r"pip install 'hasten\[video\]'"):
        mp4(clip())
