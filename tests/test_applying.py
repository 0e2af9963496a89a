"""A plan on the user's own pipeline, and the pipeline as it was."""

from __future__ import annotations

import copy
import pickle
import warnings
from typing import Any

import numpy as np
import pytest
import torch

import hasten
from hasten.adapters.scheduler import ProgramScheduler
from zoo import ZOO, built

PLAN = hasten.Plan(solver="dpmpp(order=2)", grid="uniform", steps=4)
SINGLE = hasten.Plan(solver="ddim", grid="uniform", steps=4)  # which may begin at a later step
SIZE = {"height": 16, "width": 16}


def drawn(name: str, pipe: Any, **options: Any) -> np.ndarray:
    call = {**ZOO[name].call, **options}
    call = {key: list(value) if isinstance(value, list) else value for key, value in call.items()}
    call["generator"] = torch.Generator().manual_seed(5)
    out = pipe(**call, output_type="np")
    return np.asarray(out.frames if hasattr(out, "frames") else out.images)


def state_of(pipe: Any) -> dict[str, Any]:
    """Everything about a pipeline that apply touches."""
    network = getattr(pipe, "unet", None) or pipe.transformer
    hooks = (network._forward_hooks, network._forward_pre_hooks)
    return {
        "class": type(pipe),
        "scheduler": pipe.scheduler,
        "components": {name: id(part) for name, part in pipe.components.items()},
        "attributes": set(vars(pipe)),
        "of the network": set(vars(network)),
        "hooks": [len(hook) for hook in hooks],
        "config": dict(pipe.config),
        "weights": sum(float(value.detach().double().sum()) for value in network.parameters()),
    }


@pytest.fixture(autouse=True)
def _quiet(monkeypatch):
    monkeypatch.setenv("TQDM_DISABLE", "1")


@pytest.mark.parametrize("name", ZOO)
def test_every_pipeline_runs_the_plan_and_is_as_it_was_after_it(name):
    pipe = built(name)
    pipe.set_progress_bar_config(disable=True)
    stock = drawn(name, pipe, num_inference_steps=3)
    before = state_of(pipe)
    plan = SINGLE if "img2img" in name else PLAN
    hasten.apply(pipe, plan)
    planned = drawn(name, pipe)
    assert len(pipe.scheduler.timesteps) == PLAN.steps
    assert pipe.__class__.__name__ == before["class"].__name__
    hasten.undo(pipe)
    assert state_of(pipe) == before
    assert np.array_equal(drawn(name, pipe, num_inference_steps=3), stock)
    schedule = hasten.schedule(pipe.scheduler)
    pipe.scheduler = ProgramScheduler(hasten.trace(plan, schedule), like=pipe.scheduler)
    assert np.array_equal(drawn(name, pipe, num_inference_steps=4), planned)
    assert np.isfinite(planned).all()


def test_a_number_of_steps_that_is_not_the_plans_warns_and_the_default_does_not():
    pipe = built("sd15")
    hasten.apply(pipe, PLAN)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        one = drawn("sd15", pipe)
        same = drawn("sd15", pipe, num_inference_steps=4)
    with pytest.warns(UserWarning, match="num_inference_steps is 7, but the plan .* takes 4"):
        other = drawn("sd15", pipe, num_inference_steps=7)
    assert np.array_equal(one, same)
    assert np.array_equal(one, other)


def test_a_run_that_was_broken_off_leaves_nothing_behind():
    pipe = built("sd15")
    hasten.apply(pipe, PLAN.model_copy(update={"levers": ("deep(branch=0, every=2)",)}))
    wanted = drawn("sd15", pipe)

    def broken(*_: Any) -> dict[str, Any]:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        drawn("sd15", pipe, callback_on_step_end=broken)
    assert np.array_equal(drawn("sd15", pipe), wanted)


@pytest.mark.parametrize("name", ["sd15", "flux", "sd3"])
def test_a_dtype_is_a_copy_and_answers_nearly_the_same(name):
    pipe = built(name)
    wanted_before = drawn(name, pipe, num_inference_steps=3)
    hasten.apply(pipe, PLAN)
    wanted = drawn(name, pipe)
    hasten.undo(pipe)
    hasten.apply(pipe, PLAN.model_copy(update={"dtype": "bfloat16"}))
    network = getattr(pipe, "unet", None) or pipe.transformer
    assert network.dtype == torch.bfloat16
    near = drawn(name, pipe)
    assert 0 < np.abs(near - wanted).mean() < 0.05
    hasten.undo(pipe)
    assert np.array_equal(drawn(name, pipe, num_inference_steps=3), wanted_before)


def test_a_lever_on_the_network_is_applied_to_a_copy():
    pipe = built("sd15")
    drawn("sd15", pipe)  # a pipeline keeps some settings of its last call
    before = state_of(pipe)
    hasten.apply(pipe, PLAN)
    plain = drawn("sd15", pipe)
    hasten.undo(pipe)
    hasten.apply(pipe, PLAN.model_copy(update={"levers": ("merge(share=0.5)",)}), **SIZE)
    merged = drawn("sd15", pipe)
    assert np.abs(merged - plain).max() > 0
    hasten.undo(pipe)
    assert state_of(pipe) == before


@pytest.mark.slow
@pytest.mark.parametrize(("name", "engine"), [("sd15", "compile"), ("flux", "compile-blocks")])
def test_a_compiled_network_makes_the_same_pictures(name, engine):
    pipe = built(name)
    hasten.apply(pipe, PLAN)
    wanted = drawn(name, pipe)
    hasten.undo(pipe)
    before = state_of(pipe)
    hasten.apply(pipe, PLAN.model_copy(update={"engine": engine}))
    assert np.abs(drawn(name, pipe) - wanted).max() < 1e-3
    hasten.undo(pipe)
    assert state_of(pipe) == before
    network = pipe.unet if name == "sd15" else pipe.transformer
    assert all(part._compiled_call_impl is None for part in network.modules())


REFUSED_BY_OPENVINO = {"qwen-image": "cannot be exported", "z-image": "answers with 2 tensors"}
SATURATED = {"ddpm", "ddim"}  # their pictures are 0 and 1 alone, and hide small differences


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name != "sd15")) for name in ZOO]
)
def test_an_engine_outside_torch_makes_the_same_pictures(name):
    pytest.importorskip("openvino")
    pipe, plan = built(name), SINGLE if "img2img" in name else PLAN
    hasten.apply(pipe, plan)
    wanted = drawn(name, pipe)
    hasten.undo(pipe)
    before = state_of(pipe)
    hasten.apply(pipe, plan.model_copy(update={"engine": "openvino"}))
    if name in REFUSED_BY_OPENVINO:
        with pytest.raises(hasten.UserError, match=REFUSED_BY_OPENVINO[name]):
            drawn(name, pipe)
    else:
        first, second = drawn(name, pipe), drawn(name, pipe)  # the first call also compiles
        assert (np.abs(first - wanted).max() > 0) == (name not in SATURATED)
        assert np.abs(first - wanted).max() < 1e-4
        assert np.abs(second - wanted).max() < 1e-4
    hasten.undo(pipe)
    assert state_of(pipe) == before


def test_an_engine_says_when_the_network_is_no_longer_what_it_runs():
    pytest.importorskip("onnxruntime")
    pipe = built("sd15")
    hasten.apply(pipe, PLAN.model_copy(update={"engine": "onnxruntime"}))
    with torch.no_grad():
        next(pipe.unet.parameters()).mul_(0.5)
    with pytest.raises(hasten.UserError, match="has changed since the plan was applied"):
        drawn("sd15", pipe)
    hasten.undo(pipe)
    drawn("sd15", pipe)


def test_an_engine_that_answers_otherwise_is_refused(monkeypatch):
    from hasten.adapters import running

    pipe = built("sd15")
    wrong = lambda *tensors: torch.ones_like(tensors[0])  # noqa: E731
    monkeypatch.setattr(running, "_graph", lambda *_: wrong)
    hasten.apply(pipe, PLAN.model_copy(update={"engine": "onnxruntime"}))
    for _ in range(2):  # what was refused once is not used the next time
        with pytest.raises(hasten.UserError, match="answers otherwise than UNet2DConditionModel"):
            drawn("sd15", pipe)


def test_the_guidance_of_the_plan_is_the_default_of_the_call():
    pipe = built("sd15")
    call = {"guidance_scale": ZOO["sd15"].call["guidance_scale"]}
    hasten.apply(pipe, PLAN.model_copy(update={"guidance": 2.0}))
    given = drawn("sd15", pipe, guidance_scale=2.0)
    options = {key: value for key, value in ZOO["sd15"].call.items() if key not in call}
    generator = torch.Generator().manual_seed(5)
    assert np.array_equal(pipe(**options, generator=generator, output_type="np").images, given)
    assert not np.array_equal(drawn("sd15", pipe, **call), given)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"executor": "picard"}, "one step after another"),
        ({"engine": "openvino", "dtype": "bfloat16"}, "in float32 alone.* set engine=compile"),
        ({"levers": ("small(folder='x', at=(1,))",)}, "needs hasten's own loop"),
        ({"levers": ("deep(every=2)",), "dtype": "bfloat16"}, "drop these, or the cache"),
        ({"guidance": 3.0, "guidance_interval": (0.3, 3.0)}, "guidance_interval"),
    ],
)
def test_a_plan_that_a_pipeline_cannot_carry_is_refused_and_changes_nothing(changes, why):
    pipe = built("sd15")
    before = state_of(pipe)
    with pytest.raises(hasten.UserError, match=why) as refusal:
        hasten.apply(pipe, PLAN.model_copy(update=changes))
    assert "\n" not in str(refusal.value)
    assert state_of(pipe) == before


def test_applying_twice_and_undoing_nothing_are_refused():
    pipe = built("sd15")
    with pytest.raises(hasten.UserError, match="nothing is applied"):
        hasten.undo(pipe)
    hasten.apply(pipe, PLAN)
    with pytest.raises(hasten.UserError, match=r"applied to this .* already; call hasten\.undo"):
        hasten.apply(pipe, PLAN)
    hasten.undo(pipe)
    hasten.apply(pipe, PLAN)


def test_a_pipeline_with_a_plan_can_still_be_captured():
    pipe = built("sd15")
    call = {key: value for key, value in ZOO["sd15"].call.items() if key != "prompt"}
    plain = hasten.load(pipe, prompts=["a cat"], **call)
    hasten.apply(pipe, PLAN)
    model = hasten.load(pipe, prompts=["a cat"], **call)
    assert model.schedule == plain.schedule
    noise = torch.randn(1, *model.shape)
    pictures = [hasten.build(one, PLAN).sample(noise=noise, raw=True) for one in (plain, model)]
    assert torch.equal(*pictures)


def test_a_pipeline_with_a_plan_is_neither_copied_nor_saved(tmp_path):
    pipe = built("sd15")
    hasten.apply(pipe, PLAN)
    for way in (copy.deepcopy, copy.copy, pickle.dumps, lambda p: p.save_pretrained(tmp_path)):
        with pytest.raises(hasten.UserError, match=r"call hasten\.undo\(pipe\) first"):
            way(pipe)
    hasten.undo(pipe)
    assert copy.deepcopy(pipe) is not pipe


def test_what_was_set_since_stays():
    pipe, other = built("sd15"), built("sd15")
    hasten.apply(pipe, PLAN)
    pipe.unet, pipe.scheduler = other.unet, other.scheduler
    hasten.undo(pipe)
    assert pipe.unet is other.unet
    assert pipe.scheduler is other.scheduler


def test_arguments_by_position_stay_where_they_are():
    pipe = built("sd15")
    hasten.apply(pipe, PLAN)
    wanted = drawn("sd15", pipe)
    call = ZOO["sd15"].call
    scale, generator = call["guidance_scale"], torch.Generator().manual_seed(5)
    out = pipe(
        call["prompt"],
        call["height"],
        call["width"],
        50,
        guidance_scale=scale,
        generator=generator,
        output_type="np",
    )
    assert np.array_equal(out.images, wanted)


@pytest.mark.parametrize("thing", [None, "name", torch.nn.Linear(1, 1)])
def test_what_is_no_pipeline_is_refused(thing):
    for way in (lambda: hasten.apply(thing, PLAN), lambda: hasten.undo(thing)):
        with pytest.raises(hasten.UserError, match="no live diffusers pipeline"):
            way()


def test_a_pipeline_with_another_network_on_it_is_not_loaded():
    pipe = built("sd15")
    hasten.apply(pipe, PLAN.model_copy(update={"dtype": "bfloat16"}))
    with pytest.raises(hasten.UserError, match=r"hasten\.undo\(pipe\) before you load"):
        hasten.load(pipe, prompts=["a cat"], **SIZE)
    hasten.undo(pipe)
    with pytest.raises(hasten.UserError, match="takes no argument 'hieght'"):
        hasten.apply(pipe, PLAN, hieght=16)


def test_guidance_of_z_image_counts_from_zero():
    pipe = built("z-image")
    call = {key: value for key, value in ZOO["z-image"].call.items() if key != "guidance_scale"}
    hasten.apply(pipe, PLAN.model_copy(update={"guidance": 4.0}))
    given = drawn("z-image", pipe, guidance_scale=3.0)
    call = {key: list(value) if isinstance(value, list) else value for key, value in call.items()}
    out = pipe(**call, generator=torch.Generator().manual_seed(5), output_type="np")
    assert np.array_equal(out.images, given)


@pytest.mark.parametrize("name", ["sd15", "sdxl", "flux", "wan"])
def test_prompts_are_encoded_once(name):
    pipe = built(name)
    pipe.set_progress_bar_config(disable=True)
    hasten.apply(pipe, PLAN)
    wanted = drawn(name, pipe)
    hasten.undo(pipe)
    hasten.apply(pipe, PLAN.model_copy(update={"levers": ("prompt-cache(size=2)",)}))
    encoded = []
    hook = pipe.text_encoder.register_forward_pre_hook(lambda *_: encoded.append(1))
    assert np.array_equal(drawn(name, pipe), wanted)
    once = len(encoded)
    assert once > 0
    assert np.array_equal(drawn(name, pipe), wanted)
    assert len(encoded) == once
    other = drawn(name, pipe, prompt="a bat")
    assert len(encoded) > once
    assert not np.array_equal(other, wanted)
    with torch.no_grad():
        weights = next(pipe.text_encoder.parameters())
        weights.add_(0.0)  # a LoRA was loaded, say
    before = len(encoded)
    assert np.array_equal(drawn(name, pipe), wanted)
    assert len(encoded) > before
    hook.remove()
    hasten.undo(pipe)
    assert "encode_prompt" not in vars(type(pipe)) or type(pipe).__module__.startswith("diffusers")


def test_a_pipeline_without_text_encoders_keeps_no_prompts():
    with pytest.raises(hasten.UserError, match="encode_prompt"):
        hasten.apply(built("dit"), PLAN.model_copy(update={"levers": ("prompt-cache",)}))


@pytest.mark.parametrize("lever", ["prompt-cache", "text-encoder"])
def test_levers_on_text_encoders_are_for_pipelines(lever):
    with pytest.raises(hasten.UserError, match=f"lever '{lever}' is for a pipeline's own call"):
        hasten.build(hasten.load("builtin:mnist"), f"levers=[{lever}]")
