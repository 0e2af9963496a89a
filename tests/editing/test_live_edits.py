"""Edits from a pipe, a camera or a clip at its own speed, to a file or a pipe."""

from __future__ import annotations

import io
import json
import os
import sys

import pytest
import torch
from test_edit import source
from test_stream import streamed

import hasten
from hasten.cli import _status
from hasten.core.errors import UserError
from hasten.editing.clip import edit_clip
from hasten.media import arrivals, live
from hasten.media.reading import open_clip
from made_clips import make_clip, moving

HOW = {"method": "sdedit(strength=0.5)", "plan": "solver=dpmpp(order=2),grid=uniform,steps=4"}
WORDS = [word for name, value in HOW.items() for word in (f"--{name}", value)]


@pytest.fixture(scope="module")
def model() -> hasten.Model:
    return hasten.load("builtin:mnist")


@pytest.fixture
def sent(monkeypatch, tmp_path) -> int:
    """A pipe in the place of stdin, with eight frames in it; what it is written by."""
    file = make_clip(
        tmp_path / "a.y4m", moving(8, 40, 56), codec="rawvideo", container="yuv4mpegpipe"
    )
    reading, writing = os.pipe()
    os.write(writing, file.read_bytes())  # less than a pipe holds
    monkeypatch.setattr(live, "STDIN", reading)
    monkeypatch.setattr(arrivals, "PATIENCE", 0.05)
    return writing


def ran(*arguments: object) -> int:
    words = ["edit", "builtin:mnist", "--prompt", "3", *WORDS, "--quiet"]
    return _status([*words, *map(str, arguments)])


def test_frames_are_finished_while_no_other_comes():
    stream, _ = streamed("sdedit(strength=0.7)")
    frames = source(3)
    wanted = torch.stack(list(streamed("sdedit(strength=0.7)")[0](iter(frames))))
    seen = []

    def coming():
        for frame in frames:
            yield frame
            while stream.unfinished:
                yield None
            yield None
            seen.append(len(made))

    made: list[torch.Tensor] = []
    for each in stream(coming()):
        made.append(each)
    assert seen == [1, 2, 3]
    assert (torch.stack(made) - wanted).abs().max() < 1e-5


def test_a_pipe_is_edited_into_a_pipe(sent, capfdbinary):
    os.close(sent)
    assert ran("--input", "-", "--out", "-") == 0
    out, err = capfdbinary.readouterr()
    with open_clip(io.BytesIO(out)) as reader:
        assert len(reader.read_all()[0]) == 8
    assert b"wrote -: 8 frames" in err


def test_the_numbers_go_to_stderr_where_stdout_carries_the_clip(sent, capfdbinary):
    os.close(sent)
    assert ran("--input", "-", "--out", "-", "--json") == 0
    assert json.loads(capfdbinary.readouterr().err)["frames"] == 8


def test_ctrl_c_leaves_a_clip_that_plays_while_the_pipe_stays_open(sent, model, tmp_path):
    def stopped(so_far):
        if so_far.frames == 5:
            raise KeyboardInterrupt

    out = tmp_path / "b.mp4"
    with pytest.raises(KeyboardInterrupt, match="holds the first 5 frames and plays"):
        edit_clip(model, "-", out, 3, progress=stopped, **HOW)
    os.close(sent)
    with open_clip(out) as reader:
        assert len(reader.read_all()[0]) == 5


def test_that_sound_is_not_kept_is_said(model, monkeypatch, tmp_path):
    file = make_clip(tmp_path / "a.mkv", moving(2, 40, 56), sound="aac")
    reading, writing = os.pipe()
    os.write(writing, file.read_bytes())
    os.close(writing)
    monkeypatch.setattr(live, "STDIN", reading)
    with pytest.warns(UserWarning, match="sound of the clip on stdin is not kept"):
        edit_clip(model, "-", tmp_path / "b.mp4", 3, **HOW)


def test_every_frame_of_a_clip_at_its_own_speed_is_edited_or_skipped(model, tmp_path):
    file = make_clip(tmp_path / "a.mp4", moving(6, 40, 56), rate=50, sound="aac")
    result = edit_clip(model, file, tmp_path / "b.mp4", 3, late="drop", **HOW)
    assert result.frames + result.skipped == 6
    with open_clip(file) as before, open_clip(tmp_path / "b.mp4") as after:
        assert set(after.read_all()[1]) <= set(before.read_all()[1])
        assert after.facts.has_audio


def test_a_camera_is_edited_until_it_ends(model, monkeypatch, tmp_path):
    drawn = ("lavfi", lambda _: "testsrc2=size=64x48:rate=10:duration=0.6")
    monkeypatch.setitem(live.CAMERAS, sys.platform, drawn)
    result = edit_clip(model, "camera:0", tmp_path / "b.mp4", 3, **HOW)
    assert result.frames + result.skipped == 6
    assert result.frames > 0
    with pytest.raises(UserError, match="late is 'wait', and a camera does not"):
        edit_clip(model, "camera:0", tmp_path / "b.mp4", 3, late="wait", **HOW)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--input", "-", "--out", "b.mp4", "--late", "never"], "late is 'never'"),
        (["--input", "-", "--out", "b.mp4", "--report", "r"], "record it to a file"),
        (["--input", "a.y4m", "--out", "-", "--report", "r"], "out is '-'; name one"),
        (["--input", "a.y4m", "--out", "b.mp4", "--baseline"], "name its --report"),
        (["--input", "a.y4m", "--out", "b.mkv"], "let it end in .mp4"),
    ],
)
def test_what_does_not_fit_is_refused_in_a_line(
    sent, tmp_path, monkeypatch, capsys, words, message
):
    monkeypatch.chdir(tmp_path)
    os.close(sent)
    assert ran(*words) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.y4m"]
