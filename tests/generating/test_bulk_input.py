"""Bad input to hasten generate is one line with the mend, before anything is written."""

from __future__ import annotations

import dataclasses
import sys

import pytest

from hasten.core.errors import UserError
from hasten.generating import generate
from hasten.generating.job import Job

WRONG = [
    (("--n", 0), "n is 0; it takes a whole number from 1 to"),
    (("--n", 4, "--format", "zip"), "format is 'zip'. Allowed: files, parquet, tar."),
    (("--n", 4, "--image", "jpg"), "image is 'jpg'. Allowed: jpeg, latents, png, webp."),
    (("--n", 4, "--shard", 0), "shard is 0; it takes a whole number from 1 to 100000."),
    (("--n", 4, "--shard", 200_000), "shard is 200000; it takes a whole number"),
    (("--n", 2_000_000, "--shard", 1), "shard is 1, which makes 2,000,000 shards"),
    (("--n", 4, "--workers", 0), "workers is 0; it takes a whole number from 1 to 1024."),
    (("--n", 4, "--threads", 0), "threads is 0; it takes a whole number from 1 to 1024."),
    (("--n", 4, "--batch", 0), "batch is 0; it takes a whole number"),
    (("--n", 4, "--seed", -1), "seed is -1; it takes a whole number"),
    (("--n", 4, "--dedupe"), "dedupe is for prompts, and none are given; drop it."),
    ((), "n is not given, and there are no prompts; say how many with n."),
    (("--prompts", "none.txt"), "prompts: none.txt cannot be read"),
    (("--prompts", "empty.txt"), "prompts: empty.txt holds no line"),
    (("--prompts", "latin.txt"), "prompts: latin.txt cannot be read ('utf-8' codec"),
    (("--prompts", "cats.txt"), "takes no prompts; drop them"),
    (("--n", 4, "--out", "cats.txt"), "out: "),
]


@pytest.mark.parametrize(("options", "words"), WRONG, ids=[words[:30] for _, words in WRONG])
def test_bad_input_is_one_line(run, folder, tmp_path, monkeypatch, options, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.txt").write_text("\n\n")
    (tmp_path / "latin.txt").write_bytes("café".encode("latin-1"))
    (tmp_path / "cats.txt").write_text("a cat\n")
    status, said, err = run("generate", folder, "--plan", "steps=2", *options)
    assert (status, said) == (2, "")
    assert words in err
    assert err.count("\n") == 1
    assert not list(tmp_path.rglob("shard-*"))


def test_without_ray_the_line_says_how_to_install_it(run, folder, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    asked = ("--n", 4, "--ray", "auto", "--out", tmp_path / "a")
    status, _, err = run("generate", folder, *asked)
    assert (status, err) == (2, "hasten: --ray needs ray: pip install 'hasten[ray]'.\n")


def test_without_pyarrow_the_line_says_how_to_install_it(folder, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UserError, match=r"pip install 'hasten\[bulk\]', or take --format tar"):
        generate(folder, tmp_path / "a", plan="steps=2", n=2)


def test_pictures_of_four_channels_are_written_as_latents_only(tiny_model):
    model = dataclasses.replace(tiny_model(), shape=(4, 8, 8))
    job = Job(model="m", out="o", n=2, image="jpeg")
    with pytest.raises(UserError, match="image is 'jpeg', but the pictures of 'tiny' have 4"):
        job.settled(model)
    assert dataclasses.replace(job, image="latents").settled(model).batch == 64


def test_clips_are_refused(tiny_model):
    model = dataclasses.replace(tiny_model(), shape=(3, 2, 8, 8))
    with pytest.raises(UserError, match="model 'tiny' makes clips; hasten generate makes pictures"):
        Job(model="m", out="o", n=2).settled(model)


def test_an_argument_that_cannot_be_written_down_is_refused(folder, tmp_path):
    with pytest.raises(UserError, match="call: image is a object; generate takes numbers"):
        generate(folder, tmp_path / "a", n=2, call={"image": object()})
