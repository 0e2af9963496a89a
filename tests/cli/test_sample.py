"""``hasten sample``."""

from __future__ import annotations

import json
import re

import pytest
from PIL import Image

FAST = "solver=ddim,steps=2"


def test_sample_writes_a_grid_single_files_and_a_gif(run, tmp_path):
    out = tmp_path / "out"
    asked = ("--plan", FAST, "--n", 3, "--out", out, "--gif", "--seed", 4)
    status, said, _ = run("sample", "builtin:mnist", *asked)
    assert status == 0
    assert "denoising.gif" in said
    names = sorted(file.name for file in out.iterdir())
    assert names == ["00000.png", "00001.png", "00002.png", "denoising.gif", "grid.png"]
    with Image.open(out / "00001.png") as picture:
        assert picture.size == (28, 28)
        assert picture.info["hasten:seed"] == "4"
    with Image.open(out / "denoising.gif") as gif:
        assert gif.n_frames >= 2


def test_a_parallel_executor_says_what_it_took(run, folder, tmp_path):
    asked = ("--plan", "solver=ddim,steps=8,executor=picard", "--n", 1, "--out", tmp_path / "a")
    status, said, _ = run("sample", folder, *asked)
    assert status == 0
    took = re.search(r"([\d.]+) network evaluations a picture in ([\d.]+) rounds", said)
    assert 1 <= float(took[2]) < float(took[1])
    _, said, _ = run("sample", folder, "--plan", FAST, "--n", 1, "--out", tmp_path / "b")
    assert "rounds" not in said


def test_sampling_again_gives_the_same_files(run, folder, tmp_path):
    for name in ("a", "b"):
        run("sample", folder, "--plan", FAST, "--n", 2, "--out", tmp_path / name)
    for file in (tmp_path / "a").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()


@pytest.mark.parametrize(
    ("condition", "labels"),
    [("2", [2, 2, 2, 2]), ("0,2", [0, 2, 0, 2]), ("2, 1,0,1", [2, 1, 0, 1]), (None, [0, 1, 2, 0])],
)
def test_labels_are_one_for_all_or_several_in_turn(run, folder, tmp_path, condition, labels):
    from hasten import load

    out = tmp_path / "out"
    chosen = () if condition is None else ("--condition", condition)
    status, _, err = run("sample", folder, "--plan", FAST, "--n", 4, "--out", out, *chosen)
    assert status == 0, err
    import hasten

    expected = hasten.build(load(folder), FAST).pil(4, condition=labels)
    for index, picture in enumerate(expected):
        with Image.open(out / f"{index:05d}.png") as written:
            assert written.tobytes() == picture.tobytes()


def test_json_names_the_plan_and_the_folder(run, folder, tmp_path):
    out = tmp_path / "out"
    status, said, _ = run("sample", folder, "--plan", FAST, "--n", 1, "--out", out, "--json")
    assert status == 0
    result = json.loads(said)
    assert result["plan"]["solver"].startswith("ddim")
    assert result["out"] == str(out)
    assert result["n"] == 1


def test_a_run_into_the_folder_of_another_leaves_its_own_files_alone(run, folder, tmp_path):
    out = tmp_path / "out"
    run("sample", folder, "--plan", FAST, "--n", 5, "--out", out)
    theirs = ("00099.png", "00004.txt", "cat.png")
    for name in theirs:
        (out / name).write_bytes(b"mine")
    Image.new("RGB", (4, 4)).save(out / "00098.png")
    run("sample", folder, "--plan", FAST, "--n", 2, "--out", out)
    names = sorted(file.name for file in out.iterdir())
    assert names == sorted(["00000.png", "00001.png", "00098.png", *theirs, "grid.png"])


def test_pictures_are_on_disk_as_they_are_made_whatever_the_batch(run, folder, tmp_path):
    from hasten.media.samples import SampleFolder

    counts, add = [], SampleFolder.add

    def counted(self, some):
        add(self, some)
        counts.append(len(list((tmp_path / "b").glob("0*.png"))))

    run("sample", folder, "--plan", FAST, "--n", 5, "--out", tmp_path / "a")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SampleFolder, "add", counted)
        status, _, err = run(
            *("sample", folder, "--plan", FAST, "--n", 5, "--batch", 2, "--out", tmp_path / "b")
        )
    assert status == 0, err
    assert counts == [2, 4, 5]
    for name in ("00000.png", "00004.png"):
        with Image.open(tmp_path / "a" / name) as one, Image.open(tmp_path / "b" / name) as other:
            pairs = zip(one.tobytes(), other.tobytes(), strict=True)
            assert max(abs(a - b) for a, b in pairs) <= 1


def test_the_sheet_of_many_pictures_shows_the_first(run, folder, tmp_path):
    status, _, err = run("sample", folder, "--plan", "steps=1", "--n", 70, "--out", tmp_path / "o")
    assert status == 0, err
    with Image.open(tmp_path / "o" / "grid.png") as sheet:
        assert sheet.size == (4 * (8 * 10 + 2),) * 2
    status, _, err = run("sample", folder, "--n", 70, "--gif", "--out", tmp_path / "p")
    assert (status, err) == (2, "hasten: n is 70; --gif shows up to 64 pictures.\n")


def test_the_home_folder_is_meant_by_its_sign(run, folder, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    status, _, err = run("sample", folder, "--plan", FAST, "--n", 1, "--out=~/pictures")
    assert status == 0, err
    assert (tmp_path / "pictures" / "00000.png").is_file()
