"""Low-rank students of captured pipelines: what trains, the file, and diffusers' own loading."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import pytest
import torch

import hasten
from hasten.adapters.lora import add_lora_, save_lora
from hasten.core.artifact import digest
from hasten.core.random_streams import generator
from hasten.learning.students.recipe import StudentRecipe
from hasten.learning.students.student import learn_student
from zoo import ZOO, built

FAMILIES = ["flux", "sd3", "wan", "ltx", "sdxl", "qwen-image", "z-image", "animatediff"]


def captured(name: str) -> tuple[Any, hasten.Model]:
    pipe = built(name)
    pipe.set_progress_bar_config(disable=True)
    return pipe, loaded(name, pipe)


def loaded(name: str, pipe: Any) -> hasten.Model:
    call = {key: value for key, value in ZOO[name].call.items() if key != "prompt"}
    negative = call.pop("negative_prompt", None)
    one_scale = {"true_cfg_scale": 1.0} if name == "qwen-image" else {}
    return hasten.load(pipe, prompts=["a cat"], negative=negative, **{**call, **one_scale})


@pytest.mark.parametrize("name", [name for name in FAMILIES if name in ZOO])
def test_a_low_rank_student_of_any_network_is_a_file_that_diffusers_loads(name, tmp_path):
    pipe, model = captured(name)
    net = copy.deepcopy(model.net).float()
    add_lora_(net, 2)
    trained = [key for key, value in net.named_parameters() if value.requires_grad]
    assert trained
    assert all("lora" in key and "norm" not in key for key in trained)
    with torch.no_grad():
        for key, value in net.named_parameters():
            if value.requires_grad:
                value.normal_(std=0.05, generator=generator(len(key)))
    plan = {"solver": "ddim", "grid": "uniform", "steps": 2}
    student = dataclasses.replace(model, net=net, teacher=digest(model), plans=(plan,))
    save_lora(student, tmp_path / "low", "card")
    lever = f"levers=[student(folder={str(tmp_path / 'low')!r})]"
    x = torch.randn(1, *model.shape, generator=generator(1))
    t, label = torch.tensor([model.schedule.at(model.schedule.noisy).t]), torch.tensor([0])
    with torch.no_grad():
        wanted, plain = net(x, t, label), model.net(x, t, label)
        mine = hasten.build(model, lever).net(x, t, label)
    assert float((wanted - plain).abs().max()) > 1e-3
    assert float((wanted - mine).abs().max()) < 1e-4
    pipe.load_lora_weights(tmp_path / "low")
    theirs = loaded(name, pipe)
    with torch.no_grad():
        assert float((theirs.net(x, t, label) - wanted).abs().max()) < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("name", ["flux", "wan"])
def test_a_captured_teacher_is_distilled_into_low_rank_weights(name, tmp_path):
    pipe, model = captured(name)
    recipe = StudentRecipe(
        objective="direct",
        evaluations=1,
        lora=2,
        pictures=16,
        trajectories=8,
        trajectory_steps=2,
        optimizer={"rate": 1e-2, "batch": 4, "warmup": 0},
        preview_every=0,
    )
    out = learn_student(model, recipe, tmp_path / "fast", quiet=True)
    call = {**ZOO[name].call, "output_type": "pt"}
    sizes = {key: value for key, value in ZOO[name].call.items() if key != "prompt"}
    hasten.apply(pipe, f"levers=[student(folder={str(out)!r})]", **sizes)
    made = pipe(**call)
    hasten.undo(pipe)
    assert torch.as_tensor(made[0]).isfinite().all()
