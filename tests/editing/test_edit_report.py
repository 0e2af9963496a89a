"""The page about an edit: its numbers are those of the files, and of this run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

import hasten
from hasten.cli import _status
from hasten.core.errors import UserError
from hasten.editing import report
from hasten.editing.clip import ClipEditor
from hasten.editing.measures import measured
from hasten.editing.page import figures
from hasten.editing.report import FILES, edit_with_report
from hasten.editing.stream import Streaming
from hasten.media.pictures import to_pil
from hasten.media.reading import open_clip
from made_clips import make_clip, moving

HOW = {"method": "sdedit(strength=0.5)", "plan": "solver=dpmpp(order=2),grid=uniform,steps=4"}
WORDS = [word for name, value in HOW.items() for word in (f"--{name}", value)]
LOSSLESS = {"codec": "ffv1", "pixels": "bgr0"}


@pytest.fixture(scope="module")
def editor() -> ClipEditor:
    return ClipEditor.of(hasten.load("builtin:mnist"), 3, **HOW)


@pytest.fixture
def clip(tmp_path) -> Path:
    return make_clip(tmp_path / "clip.mkv", moving(9, 41, 56), sound="aac", **LOSSLESS)


def test_measures_are_those_of_the_pixels(tmp_path):
    still = torch.full((4, 3, 8, 8), 51, dtype=torch.uint8)
    still[2:, :, :4] = 153  # the upper half of the source changes once
    edited = still.clone()
    edited[1] += 51
    source = make_clip(tmp_path / "a.mkv", still, **LOSSLESS)
    out = make_clip(tmp_path / "b.mkv", edited, **LOSSLESS)
    asked = []

    def standing(pair: torch.Tensor, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        asked.append((tuple(pair.shape), number))
        return torch.zeros(1, 2, 8, 8), torch.full((1, 8, 8), number != 1)

    own, other = measured([source, out], standing)
    assert own.strength == [*own.flicker, 0.0] == [0.0] * 4
    assert other.strength == pytest.approx([0, 0.2, 0, 0])
    assert other.flicker == pytest.approx([0.2, 0.2, 0])
    assert other.warp_error[1] is None  # nothing can be followed there
    assert other.warp_error[0] == pytest.approx(0.2)
    assert asked == [((2, 3, 8, 8), number) for number in range(3)]
    assert other.means()["warp_error"] == pytest.approx(0.1)


def test_flicker_is_not_measured_where_nothing_stands_still(tmp_path):
    frames = torch.arange(3, dtype=torch.uint8).view(3, 1, 1, 1).expand(3, 3, 8, 8) * 50
    clip = make_clip(tmp_path / "a.mkv", frames, **LOSSLESS)
    (found,) = measured([clip])
    assert found.flicker == [None, None]
    assert found.means() == {"strength": 0.0, "flicker": None, "warp_error": None}


def test_a_report_has_the_clips_and_the_numbers_of_this_run(editor, clip, tmp_path, monkeypatch):
    monkeypatch.setattr(report, "known_flow", lambda: None)
    folder, out = tmp_path / "report", tmp_path / "edited.mp4"
    settings = Streaming(every=3)
    result = edit_with_report(editor, clip, out, folder, settings=settings, baseline=True)
    found = json.loads((folder / "report.json").read_text())
    names = [*FILES.values(), "report.html", "report.json"]
    assert sorted(path.name for path in folder.iterdir()) == sorted(names)
    assert (folder / "edited.mp4").read_bytes() == out.read_bytes()
    for file in FILES.values():
        with open_clip(folder / file) as reader:
            assert len(reader.read_all()[0]) == 9
    source, edit, alone = found["shown"]
    assert edit["took"]["frames"] == result.frames == 9
    assert (alone["took"]["edited"], alone["took"]["carried"]) == (9, 0)
    assert found["gain"] == pytest.approx(edit["frames_a_second"] / alone["frames_a_second"])
    wanted = measured([clip, out])
    assert edit["measures"]["strength"] == wanted[1].strength
    assert source["measures"]["flicker"] == wanted[0].flicker
    assert source["means"]["warp_error"] is None
    assert found["facts"]["every"] == 3
    assert found["facts"]["method"].startswith("sdedit(")
    page = (folder / "report.html").read_text()
    assert "times the frames a second of editing every frame by itself" in page
    assert "not measured, since the motion is not known" in page
    assert "http" not in page.replace("http://www.w3.org", "").partition("<script>")[0]


def test_without_a_baseline_no_gain_is_claimed(editor, clip, tmp_path):
    flow = torch.zeros(1, 2, 41, 56), torch.ones(1, 41, 56, dtype=torch.bool)
    edit_with_report(editor, clip, tmp_path / "b.mp4", tmp_path / "r", flow=lambda *_: flow)
    found = json.loads((tmp_path / "r" / "report.json").read_text())
    page = (tmp_path / "r" / "report.html").read_text()
    assert found["gain"] is None
    assert "by itself" not in page
    assert "not measured" not in page
    assert len(found["shown"][1]["measures"]["warp_error"]) == 8


def test_a_clip_of_one_frame_has_a_page_without_figures(editor, tmp_path):
    clip = make_clip(tmp_path / "a.mp4", moving(1, 40, 56))
    edit_with_report(editor, clip, tmp_path / "b.mp4", tmp_path / "r")
    found = json.loads((tmp_path / "r" / "report.json").read_text())
    assert found["shown"][1]["means"]["flicker"] is None
    assert figures([], found["times"]) == {}


def test_what_a_report_would_overwrite_is_refused(editor, clip, tmp_path):
    clip.rename(tmp_path / "source.mp4")
    with pytest.raises(UserError, match="under other names"):
        edit_with_report(editor, tmp_path / "source.mp4", tmp_path / "b.mp4", tmp_path)
    with pytest.raises(UserError, match="every frame by itself, and these settings already do"):
        edit_with_report(
            editor,
            tmp_path / "source.mp4",
            tmp_path / "b.mp4",
            tmp_path / "r",
            settings=Streaming(depth=1),
            baseline=True,
        )
    with pytest.raises(UserError, match="a file; name a folder"):
        edit_with_report(editor, clip, tmp_path / "b.mp4", tmp_path / "source.mp4")
    assert [path.name for path in tmp_path.iterdir()] == ["source.mp4"]


def ran(*arguments: object) -> int:
    words = ["edit", "builtin:mnist", "--prompt", "3", *WORDS, "--quiet"]
    return _status([*words, *map(str, arguments)])


def test_the_command_names_the_report_that_it_wrote(clip, tmp_path, capsys):
    out, folder = tmp_path / "b.mp4", tmp_path / "r"
    assert ran("--input", clip, "--out", out, "--report", folder) == 0
    assert f"wrote {folder / 'report.html'}" in capsys.readouterr().out
    assert (folder / "report.html").is_file()
    more = ["--input", clip, "--out", out, "--report", folder]
    assert ran(*more, "--late", "drop") == 2
    assert "late is 'drop'" in capsys.readouterr().err


def test_a_picture_has_a_report_too(tmp_path, capsys):
    picture, out, folder = tmp_path / "in.png", tmp_path / "out.png", tmp_path / "r"
    to_pil(moving(1, 40, 40)[0].float() / 255).save(picture)
    assert ran("--input", picture, "--out", out, "--report", folder) == 0
    found = json.loads((folder / "report.json").read_text())
    names = ["edit.png", "report.html", "report.json", "source.png"]
    assert sorted(path.name for path in folder.iterdir()) == names
    assert found["facts"]["evaluations"] == 2
    assert found["facts"]["seconds"] > 0
    before, after = (Image.open(folder / f"{name}.png") for name in ("source", "edit"))
    assert before.size == after.size == (40, 40)
    assert found["shown"][1]["means"]["strength"] > 0
    assert ran("--input", picture, "--out", out, "--report", folder, "--baseline") == 2
    assert "--baseline: only for clips" in capsys.readouterr().err
