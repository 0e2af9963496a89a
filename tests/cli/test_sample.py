"""``hasten sample``."""

from __future__ import annotations

import json

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
