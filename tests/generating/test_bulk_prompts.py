"""Bulk generation from prompts: taken in turn, encoded once a shard."""

from __future__ import annotations

import json

import pytest
import torch
from bulk_reading import TWO, contents_of, rows_of, whole

import hasten
from hasten.core.family import Text
from hasten.generating import conditions, generate

PROMPTS = ["a large red circle", "a small blue star", "a large green square"]
PROMPTS += ["a small red circle", "a large blue star", "a small green square"]


def test_item_i_has_prompt_i_in_turn_and_each_is_encoded_once_a_shard(tmp_path, monkeypatch):
    texts: list[str] = []
    words = Text.words

    def counted(self, prompts):
        texts.extend(prompts)
        return words(self, prompts)

    monkeypatch.setattr(Text, "words", counted)
    monkeypatch.setattr(conditions, "AHEAD", 2)
    some = [*PROMPTS[:3], PROMPTS[0], *PROMPTS[3:]]
    options = {"plan": TWO + ",guidance=3", "prompts": some, "n": 10, "shard": 8, "batch": 3}
    generate("builtin:shapes", tmp_path / "a", image="latents", format="tar", threads=1, **options)
    rows = rows_of(tmp_path / "a")
    assert [row["prompt"] for row in rows] == [*some, *some[:3]]
    assert whole(tmp_path / "a", 10)
    assert sorted(filter(None, texts)) == sorted([*PROMPTS, *some[1:3]])


def test_an_item_can_be_made_again_alone(tmp_path):
    from safetensors.torch import load

    torch.set_num_threads(1)
    options = {"plan": TWO + ",guidance=3", "prompts": PROMPTS, "shard": 4, "batch": 2}
    options |= {"image": "latents", "format": "files", "seed": 9, "threads": 1}
    generate("builtin:shapes", tmp_path / "a", **options)
    sampler = hasten.build(hasten.load("builtin:shapes"), TWO + ",guidance=3")
    alone = sampler.sample(1, seed=9, first=5, condition=PROMPTS[5], raw=True)
    there = load(contents_of(tmp_path / "a")[5])["x0"]
    assert (there - alone[0]).abs().max() < 1e-4  # float32 in batches of 1 and of 2


def test_identical_prompts_are_used_once_on_request(run, tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_text("\n".join([PROMPTS[0], PROMPTS[1], PROMPTS[0], PROMPTS[0]]))
    asked = ("--plan", TWO, "--prompts", file, "--dedupe", "--out", tmp_path / "a", "--quiet")
    status, said, err = run("generate", "builtin:shapes", *asked, "--json")
    assert status == 0, err
    assert json.loads(said)["duplicates"] == 2
    assert [row["prompt"] for row in rows_of(tmp_path / "a")] == PROMPTS[:2]


@pytest.mark.slow
def test_a_pipeline_that_is_captured_encodes_the_prompts_of_each_shard(tmp_path):
    options = {"plan": TWO + ",guidance=3", "prompts": PROMPTS[:3], "shard": 2, "negative": "red"}
    generate("builtin:shapes", tmp_path / "a", **options, threads=1)
    assert whole(tmp_path / "a", 3)
    assert [row["prompt"] for row in rows_of(tmp_path / "a")] == PROMPTS[:3]
