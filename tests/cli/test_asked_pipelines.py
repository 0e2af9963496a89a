"""The command line on folders of pipelines that take prompts."""

from __future__ import annotations

import json

import pytest

from zoo import built, picture

WAN = ("--prompt", "a cat", "--size", "32x32", "--frames", 9, "--call", "max_sequence_length=16")


@pytest.fixture(scope="module")
def wan(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pipelines") / "wan"
    built("wan").save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def controlled(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pipelines") / "sd-controlnet"
    built("sd-controlnet").save_pretrained(folder)
    return folder


def test_a_video_model_makes_a_clip_for_each_prompt(run, wan, tmp_path):
    (tmp_path / "more.txt").write_text("a dog\n\na fox\n", encoding="utf-8")
    status, out, err = run(
        *("sample", wan, *WAN, "--prompts", tmp_path / "more.txt", "--negative", "blurry"),
        *("--plan", "steps=2", "--out", tmp_path / "out"),
    )
    assert status == 0, err
    assert "wrote 3 clips, frames.png" in out
    assert len(list((tmp_path / "out").glob("*.mp4"))) == 3


def test_info_says_what_was_captured(run, wan):
    status, out, err = run("info", wan, *WAN, "--json")
    assert status == 0, err
    model = json.loads(out)["model"]
    assert model["network"] == "WanTransformer3DModel"
    assert model["clips"] == "9 frames of 32x32, 3 channel(s)"
    assert model["captured"]["hidden_states"] == "x"
    assert model["captured"]["encoder_hidden_states"] == "from the prompts"
    status, out, _ = run("info", wan, *WAN)
    assert "encoder_hidden_states: from the prompts" in out


def test_a_picture_is_an_argument_of_the_call(run, controlled, tmp_path):
    file = tmp_path / "cat.png"
    picture().save(file)
    ask = ("--prompt", "a cat", "--size", "16x16", "--call", f"image={file}")
    status, out, err = run(
        "sample", controlled, *ask, "--plan", "steps=2", "--out", tmp_path / "out"
    )
    assert status == 0, err
    assert "wrote 1 picture, grid.png" in out
    status, out, err = run("info", controlled, *ask, "--json")
    given = json.loads(out)["model"]["captured"]
    assert given["mid_block_additional_residual"] == "from the network beside it"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--prompt", "a cat", "--size", "32"], "size is '32'; it takes width x height"),
        (["--prompt", "a cat", "--frames", "0"], "frames is 0"),
        (["--prompt", "a cat", "--call", "guidance"], "call is 'guidance'; it takes name=value"),
        (["--prompt", "a cat", "--call", "guidance=2"], "Did you mean 'guidance_scale'"),
        (["--prompt", "a cat", "--call", "eta=1"], "a plan's solver says it"),
        (["--size", "32x32"], "for a pipeline with prompts"),
        ([*map(str, WAN), "--gif"], "this model makes clips; drop it"),
    ],
)
def test_what_cannot_be_asked_is_one_line(run, wan, words, expected, tmp_path):
    status, out, err = run("sample", wan, *words, "--out", tmp_path / "out")
    assert (status, out) == (2, "")
    assert expected in err
    assert err.count("\n") == 1
    assert not (tmp_path / "out").exists()
