"""Every family of pipelines, captured: what a Model samples is what the pipeline itself makes."""

from __future__ import annotations

import concurrent.futures
import itertools
from typing import Any

import numpy as np
import pytest
import torch

import hasten
from hasten.adapters.scheduler import ProgramScheduler
from zoo import ZOO, built

STEPS = 4
LINEAR = {  # guidance of one scale, where a pipeline's own is more
    "qwen-image": {"true_cfg_scale": 1.0},
}
REFUSED = {
    "qwen-image": "no weighted sum",  # its guidance rescales to the norm of a branch
}
PLAN = hasten.Plan(solver="dpmpp(order=2)", grid="uniform", steps=STEPS)


class Watched(ProgramScheduler):
    """Notes the first sample and the last one."""

    def step(self, model_output: Any, timestep: Any, sample: Any, **options: Any) -> Any:
        out = super().step(model_output, timestep, sample, **options)
        if self.step_index == 1:
            self.first = sample.clone()
        self.last = (out[0] if isinstance(out, tuple) else out.prev_sample).clone()
        return out


def call_of(name: str) -> tuple[list[Any] | None, dict[str, Any]]:
    """The prompts of an entry, and the other arguments of its call."""
    call = {**ZOO[name].call, **LINEAR.get(name, {})}
    prompts = call.pop("prompt", call.pop("class_labels", None))
    call.pop("generator", None)
    return ([prompts] if isinstance(prompts, (str, int)) else prompts and list(prompts)), call


def loaded(name: str, pipe: Any, prompts: Any, call: dict[str, Any]) -> hasten.Model:
    """The pipeline captured, with the arguments of its call as load names them."""
    named = {"negative" if key == "negative_prompt" else key: call[key] for key in call}
    return hasten.load(pipe, prompts=prompts, **(named if prompts else {}))


def pipelines_own(name: str, pipe: Any, model: Any) -> tuple[torch.Tensor, torch.Tensor, Any]:
    """The pipeline's start, its last latents and its pictures, by the program of PLAN."""
    program = hasten.trace(PLAN, model.schedule)
    scheduler = Watched(program, like=pipe.scheduler)
    before, pipe.scheduler = pipe.scheduler, scheduler
    prompts, call = call_of(name)
    if prompts is not None:
        call["class_labels" if name == "dit" else "prompt"] = list(prompts)
    try:
        out = pipe(
            **call,
            num_inference_steps=STEPS,
            generator=torch.Generator().manual_seed(0),
            output_type="np",
        )
    finally:
        pipe.scheduler = before
    pictures = out.frames if hasattr(out, "frames") else out.images
    return scheduler.first, scheduler.last, np.asarray(pictures)


FROM_NOISE = [name for name in ZOO if "img2img" not in name]


@pytest.mark.parametrize("name", FROM_NOISE)
def test_what_is_captured_samples_as_the_pipeline_does(name):
    pipe = built(name)
    pipe.set_progress_bar_config(disable=True)
    prompts, call = call_of(name)
    model = loaded(name, pipe, prompts, call)
    first, last, pictures = pipelines_own(name, pipe, model)
    n = 1 if prompts is None else len(prompts)
    noise = first[:n].float() / hasten.trace(PLAN, model.schedule).start.spread
    plan = PLAN.model_copy(update=dict(model.plan))
    condition = None if model.labels is None else list(range(n))
    sampler = hasten.build(model, plan)
    raw = sampler.sample(noise=noise, condition=condition, raw=True)
    # Sums of float32 in another order, through four steps of a network of random weights.
    assert (raw - last[:n]).norm() < 1e-4 * last[:n].norm()
    shown = sampler.sample(noise=noise, condition=condition).numpy()
    assert np.abs(np.moveaxis(shown, -3, -1) - pictures).max() < 2e-3


@pytest.mark.parametrize("name", [name for name in ZOO if "img2img" in name])
def test_a_pipeline_that_begins_with_a_picture_is_captured_too(name):
    pipe = built(name)
    prompts, call = call_of(name)
    model = hasten.load(pipe, prompts=prompts, **call)
    assert model.labels == 1
    assert hasten.build(model, PLAN).sample(2, condition=0).shape[0] == 2


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_captured_is_refused_in_one_line(name):
    prompts = call_of(name)[0]
    call = {key: value for key, value in ZOO[name].call.items() if key != "prompt"}
    with pytest.raises(hasten.UserError, match=REFUSED[name]) as refusal:
        loaded(name, built(name), prompts, call)
    assert "\n" not in str(refusal.value)


def test_guidance_of_two_scales_is_captured():
    """The prompt's scale is the plan's; the branches without it are one, weighted as they were."""
    pipe = built("instruct-pix2pix")
    prompts, call = call_of("instruct-pix2pix")
    model = loaded("instruct-pix2pix", pipe, prompts, call)
    assert hasten.build(model).plan.guidance == pytest.approx(4.0, abs=1e-3)
    x, t = torch.randn(1, *model.shape), torch.full((1,), 500.0)
    null = model.net(x, t, torch.tensor([1]))
    rows = torch.tensor([0, 1, 0, 1])
    several = model.net(x.expand(4, -1, -1, -1), t.expand(4), rows)
    assert torch.allclose(several[[1, 3]], null.expand(2, -1, -1, -1), atol=1e-5)
    for lever in ("deep(branch=0, every=2)", "regions"):
        with pytest.raises(hasten.UserError, match="several calls make one answer"):
            hasten.build(model, PLAN.model_copy(update={"levers": (lever,)}))
    call["guidance_scale"], call["image_guidance_scale"] = 1.0 + 1e-9, 1.5
    with pytest.raises(hasten.UserError, match="cancel out; set guidance_scale to another value"):
        loaded("instruct-pix2pix", pipe, prompts, call)


def test_a_pipeline_is_as_it_was_after_it_was_captured():
    pipe = built("sd15")
    scheduler, attributes = pipe.scheduler, set(vars(pipe.unet))
    prompts, call = call_of("sd15")
    hasten.load(pipe, prompts=prompts, **call)
    assert pipe.scheduler is scheduler
    assert set(vars(pipe.unet)) == attributes


@pytest.mark.parametrize("name", ["sd15", "flux", "wan"])
def test_a_pipeline_in_half_precision_is_captured_in_it(name):
    pipe = built(name).to(dtype=torch.bfloat16)
    pipe.set_progress_bar_config(disable=True)
    prompts, call = call_of(name)
    model = hasten.load(pipe, prompts=prompts, **call)
    assert model.dtype == torch.bfloat16
    plan = PLAN.model_copy(update={**model.plan, "dtype": "bfloat16"})
    assert hasten.build(model, plan).sample(1, condition=0).isfinite().all()


def test_a_second_prompt_is_its_own_and_gradients_reach_the_latents():
    pipe = built("sd15")
    call = call_of("sd15")[1]
    model = hasten.load(pipe, prompts=["a cat", "b"], negative="dog", **call)
    assert (model.labels, model.null_label, model.prompts) == (2, 2, ("a cat", "b"))
    x, t = torch.randn(1, *model.shape, requires_grad=True), torch.tensor([500.0])
    answers = [model.net(x, t, torch.tensor([label])) for label in range(3)]
    assert all((a - b).abs().max() > 1e-6 for a, b in itertools.pairwise(answers))
    model.codec.decode(x).sum().backward()
    assert x.grad is not None
    assert x.grad.abs().max() > 0
    assert all(value.grad is None for value in pipe.vae.parameters())
    assert all(value.requires_grad for value in pipe.vae.parameters())


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"prompts": ["a"], "heigth": 16}, "heigth"),
        ({"prompts": ["a"], "height": 15}, "height"),
        ({"prompts": []}, "prompts"),
        ({"height": 16}, "give prompts= as well"),
        ({"negative": "dog"}, "give prompts= as well"),
        ({"prompts": ["a"], "negative": ["dog", "cat"]}, "one text, for all prompts"),
    ],
)
def test_arguments_that_do_not_fit_are_named(options, why):
    with pytest.raises(hasten.UserError, match=why) as refusal:
        hasten.load(built("sdxl"), **options)
    assert "\n" not in str(refusal.value)


def test_arguments_that_would_be_lost_are_refused():
    call = call_of("sd15")[1]
    lost = {"num_images_per_prompt": 2, "callback_on_step_end": print, "negative_prompt": "dog"}
    for name, value in {**lost, "return_dict": False, "output_type": "pil"}.items():
        with pytest.raises(hasten.UserError, match=f"no argument '{name}'"):
            hasten.load(built("sd15"), prompts=["a cat"], **call, **{name: value})
    with pytest.raises(hasten.UserError, match="takes no prompts"):
        hasten.load(built("ddpm"), prompts=["a cat"])
    with pytest.raises(hasten.UserError, match="list of texts"):
        hasten.load(built("sd15"), prompts=["a cat", 1])


def test_a_mask_that_is_blended_into_the_latents_is_refused():
    """Inpainting with a network of four channels: the pipeline changes the latents itself."""
    from diffusers import StableDiffusionInpaintPipeline

    parts = built("sd15").components
    pipe = StableDiffusionInpaintPipeline(**parts, requires_safety_checker=False)
    prompts, call = call_of("sd-inpaint")
    with pytest.raises(hasten.UserError, match="changes the latents between its steps"):
        hasten.load(pipe, prompts=prompts, **call)


def test_threads_wait_for_the_pipeline_that_decodes():
    pipe = built("sd15")
    call = call_of("sd15")[1]
    sampler = hasten.build(hasten.load(pipe, prompts=["a cat"], **call), PLAN)
    wanted = [sampler.sample(1, seed=seed, condition=0) for seed in range(4)]
    scheduler = pipe.scheduler
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        found = pool.map(lambda seed: sampler.sample(1, seed=seed, condition=0), range(4))
        for one, other in zip(wanted, found, strict=True):
            assert (one - other).abs().max() < 1e-5
    assert pipe.scheduler is scheduler
    assert "forward" not in vars(pipe.unet)


def test_a_live_pipeline_is_captured_where_it_is():
    with pytest.raises(hasten.UserError, match=r"captured as it is, on cpu in torch\.float32"):
        hasten.load(built("sdxl"), prompts=["a"], dtype="bfloat16", **call_of("sdxl")[1])
