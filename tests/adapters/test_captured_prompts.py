"""Prompts that a captured pipeline was not loaded for."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import hasten
from zoo import ZOO, built

LINEAR: dict[str, dict[str, Any]] = {"qwen-image": {"true_cfg_scale": 1.0}}
OTHER = "a small blue square on the left"


def call_of(name: str) -> dict[str, Any]:
    call = {**ZOO[name].call, **LINEAR.get(name, {})}
    for given in ("prompt", "class_labels", "generator"):
        call.pop(given, None)
    return {"negative" if key == "negative_prompt" else key: call[key] for key in call}


PROMPTED = [name for name in ZOO if isinstance(ZOO[name].call.get("prompt"), str)]


@pytest.mark.parametrize("name", PROMPTED)
def test_another_prompt_gives_what_a_model_loaded_for_it_gives(name):
    pipe, call = built(name), call_of(name)
    first = hasten.load(pipe, prompts=["something"], **call)
    if first.family.prompts(first.net) is None:
        pytest.skip("its call has something for each prompt")
    second = hasten.load(pipe, prompts=[OTHER], **call)
    plan = {"solver": "ddim", "grid": "uniform", "steps": 2, **first.plan}
    mine = hasten.build(first, plan).sample(1, seed=3, condition=[OTHER], raw=True)
    wanted = hasten.build(second, plan).sample(1, seed=3, condition=[OTHER], raw=True)
    torch.testing.assert_close(mine, wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("sd2-v", {"levers": ["deep(every=2)"]}),
        ("sdxl", {"levers": ["deep(every=2)"]}),
        ("flux", {"levers": ["blocks(every=2)"]}),
        ("sdxl", {"engine": "openvino"}),
        ("flux", {"levers": ["blocks(every=2)"], "engine": "openvino"}),
    ],
)
def test_another_prompt_goes_through_caches_and_engines(name, fields):
    if fields.get("engine") == "openvino":
        pytest.importorskip("openvino")
    pipe, call = built(name), call_of(name)
    first = hasten.load(pipe, prompts=["something"], **call)
    second = hasten.load(pipe, prompts=[OTHER], **call)
    plan = {"solver": "ddim", "grid": "uniform", "steps": 4, **first.plan, **fields}
    mine, wanted = (
        hasten.build(model, plan).sample(1, seed=3, condition=[OTHER], raw=True)
        for model in (first, second)
    )
    torch.testing.assert_close(mine, wanted, atol=1e-4, rtol=1e-4)
