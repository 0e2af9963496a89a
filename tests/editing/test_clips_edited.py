"""A clip file in, an edited one out: frames, times, sound; pictures and the command line."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from pathlib import Path

import pytest
import torch
from PIL import Image

import hasten
from hasten.cli import _status
from hasten.core.errors import UserError
from hasten.editing.clip import ClipEdit, edit_clip, resized
from hasten.editing.edit import edit
from hasten.editing.stream import Streaming
from hasten.media.pictures import to_pil
from hasten.media.reading import open_clip
from made_clips import make_clip, moving, packets

PLAN = "solver=dpmpp(order=2),grid=uniform,steps=4,guidance=2"


@pytest.fixture(scope="module")
def model() -> hasten.Model:
    return hasten.load("builtin:mnist")


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("clips") / "clip.mp4"
    make_clip(file, moving(9, 56, 84), sound="aac")
    return file


def frames_of(file: Path) -> tuple[torch.Tensor, list]:
    with open_clip(file) as reader:
        return reader.read_all()


def test_a_clip_keeps_its_times_its_size_and_its_sound(model, clip, tmp_path):
    out = tmp_path / "edited.mp4"
    told: list[ClipEdit] = []
    options = {"method": "sdedit(strength=0.5)", "plan": PLAN, "seed": 3}
    result = edit_clip(model, clip, out, 3, progress=told.append, **options)
    before, times = frames_of(clip)
    after, new_times = frames_of(out)
    assert (result.frames, result.edited, result.evaluations) == (9, 9, 2)
    assert [each.frames for each in told] == list(range(1, 10))
    assert new_times == times
    assert after.shape == before.shape
    assert [data for _, data in packets(out, "audio")] == [
        data for _, data in packets(clip, "audio")
    ]
    grey = (before.float() / 255 * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(
        1, keepdim=True
    )
    wanted = edit(model, resized(grey, (28, 28)), 3, shared_noise=True, **options)
    shown = resized(after.float().mean(1, keepdim=True) / 255, (28, 28))
    assert (shown - wanted).abs().mean() < 0.02  # H.264 loses some


def test_a_still_clip_is_edited_once(model, tmp_path):
    make_clip(tmp_path / "still.mp4", moving(1, 56, 56).expand(8, -1, -1, -1))
    settings = Streaming(similar=0.02)
    options = {"method": "sdedit(strength=0.5)", "plan": PLAN, "settings": settings}
    result = edit_clip(model, tmp_path / "still.mp4", tmp_path / "out.mp4", 3, **options)
    assert (result.frames, result.edited) == (8, 1)
    assert result.frames_a_second > 0
    assert result.latency > 0


def test_a_clip_that_breaks_off_leaves_what_was_edited(model, clip, tmp_path):
    short, out = tmp_path / "short.ts", tmp_path / "out.mp4"
    make_clip(tmp_path / "long.ts", moving(40, 56, 56), container="mpegts")
    content = (tmp_path / "long.ts").read_bytes()
    short.write_bytes(content[: len(content) // 2] + b"\\x00" * 1000)
    with contextlib.suppress(UserError):  # that it broke off is said where the file tells
        edit_clip(model, short, out, 3, method="sdedit(strength=0.3)", plan=PLAN)
    assert len(frames_of(out)[0]) > 0


def test_the_file_that_is_read_is_not_written(model, clip):
    with pytest.raises(UserError, match="the clip that is read"):
        edit_clip(model, clip, clip, 3)


def test_a_model_of_clips_is_refused(model, clip, tmp_path):
    films = dataclasses.replace(model, shape=(1, 4, 28, 28), codec=hasten.core.codec.Identity())
    with pytest.raises(UserError, match="makes clips"):
        edit_clip(films, clip, tmp_path / "x.mp4", 3)


def ran(*arguments: object) -> int:
    return _status(["edit", "builtin:mnist", *map(str, arguments), "--quiet"])


def test_the_command_edits_clips_and_pictures(model, clip, tmp_path, capsys):
    how = ["--plan", PLAN, "--method", "sdedit(strength=0.5)", "--prompt", "3"]
    out = tmp_path / "edited.mp4"
    assert ran("--input", clip, "--out", out, *how, "--json") == 0
    assert json.loads(capsys.readouterr().out)["frames"] == 9
    assert len(frames_of(out)[0]) == 9
    picture, made = tmp_path / "in.png", tmp_path / "out.png"
    to_pil(moving(1, 40, 40)[0].float() / 255).save(picture)
    assert ran("--input", picture, "--out", made, *how) == 0
    assert "wrote" in capsys.readouterr().out
    assert Image.open(made).size == (40, 40)
    mask = Image.new("L", (40, 40))
    mask.paste(255, (20, 0, 40, 40))
    mask.save(tmp_path / "mask.png")
    assert ran("--input", picture, "--out", made, *how, "--mask", tmp_path / "mask.png") == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--prompt", "3", "--prompt", "4"], "one --prompt"),
        ([], "one --prompt"),
        (["--prompt", "3", "--method", "telepathy"], "editing method"),
        (["--prompt", "3", "--method", "sdedit(strength=1.5)"], "strength"),
        (["--prompt", "11"], "condition is 11"),
        (["--prompt", "3", "--mask", "mask.png"], "--mask: only for pictures"),
        (["--prompt", "3", "--depth", "0"], "depth"),
        (["--prompt", "3", "--depth", "2", "--every", "4"], "--depth has no effect with --every"),
        (["--prompt", "3", "--baseline"], "--baseline is for a report"),
        (["--prompt", "3", "--late", "never"], "late"),
        (["--prompt", "3", "--similar", "2"], "similar"),
    ],
)
def test_the_command_names_what_does_not_fit(clip, tmp_path, capsys, arguments, message):
    out = tmp_path / "x.mp4"
    assert ran("--input", clip, "--out", out, "--plan", PLAN, *arguments) == 2
    assert message in capsys.readouterr().err
    assert not out.exists()


def test_what_is_for_clips_is_not_ignored_with_a_picture(tmp_path, capsys):
    to_pil(moving(1, 40, 40)[0].float() / 255).save(tmp_path / "in.png")
    files = ["--input", tmp_path / "in.png", "--out", tmp_path / "out.png", "--prompt", "3"]
    assert ran(*files, "--plan", PLAN, "--every", "4", "--similar", "0.1") == 2
    assert "--similar, --every: only for clips" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["none.mp4", "text.mp4", "."])
def test_what_is_no_clip_is_refused(tmp_path, capsys, name):
    (tmp_path / "text.mp4").write_text("no clip")
    out = tmp_path / "out.mp4"
    assert ran("--input", tmp_path / name, "--out", out, "--prompt", "3", "--plan", PLAN) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
    assert not out.exists()
