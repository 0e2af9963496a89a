"""Pipelines with two networks that take turns (Wan 2.2): applied to, cached, captured."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch

import hasten
import zoo
from hasten.adapters.recording import boundary_of
from hasten.core.errors import UserError

CALL = {key: value for key, value in zoo.ZOO["wan"].call.items() if key != "prompt"}
PLAN = "solver=dpmpp(order=2),grid=uniform,steps=4"


@pytest.fixture(scope="module")
def pipe() -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        made = zoo.wan22()
    made.set_progress_bar_config(disable=True)
    return made


def drawn(pipe: Any, **options: Any) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        seeded = {**CALL, "generator": torch.Generator().manual_seed(0), **options}
        return np.asarray(pipe("a cat", output_type="np", **seeded).frames)


def calls(pipe: Any) -> dict[str, list[float]]:
    """The times at which each network is called from now on, and how often its last block runs."""
    seen: dict[str, list[float]] = {}
    for name in ("transformer", "transformer_2"):
        net, times, blocks = getattr(pipe, name), seen.setdefault(name, []), []
        seen[name + " blocks"] = blocks

        def note(_: Any, inputs: Any, options: Any, times: list[float] = times) -> None:
            times.append(float(options["timestep"][0]))

        def ran(_: Any, inputs: Any, blocks: list[float] = blocks) -> None:
            blocks.append(0.0)

        net.register_forward_pre_hook(note, with_kwargs=True)
        net.blocks[-1].attn1.register_forward_pre_hook(ran)
    return seen


def unhook(pipe: Any) -> None:
    for net in (pipe.transformer, pipe.transformer_2):
        net._forward_pre_hooks.clear()
        net._forward_pre_hooks_with_kwargs.clear()
        net.blocks[-1].attn1._forward_pre_hooks.clear()


def test_a_program_runs_on_both_and_undo_gives_the_pipeline_back(pipe):
    before = drawn(pipe, num_inference_steps=4)
    own = pipe.transformer, pipe.transformer_2
    hasten.apply(pipe, PLAN)
    seen = calls(pipe)
    planned = drawn(pipe)
    unhook(pipe)
    hasten.undo(pipe)
    boundary = boundary_of(pipe)
    assert min(seen["transformer"]) >= boundary > max(seen["transformer_2"])
    assert not np.array_equal(planned, before)
    assert (pipe.transformer, pipe.transformer_2) == own
    assert np.array_equal(drawn(pipe, num_inference_steps=4), before)


def test_a_dtype_is_a_copy_of_both(pipe):
    own = pipe.transformer, pipe.transformer_2
    hasten.apply(pipe, PLAN)
    exact = drawn(pipe)
    hasten.undo(pipe)
    hasten.apply(pipe, PLAN + ",dtype=bfloat16")
    assert {pipe.transformer.dtype, pipe.transformer_2.dtype} == {torch.bfloat16}
    rough = drawn(pipe)
    hasten.undo(pipe)
    assert (pipe.transformer, pipe.transformer_2) == own
    assert own[1].dtype == torch.float32
    assert 0 < np.abs(rough - exact).max() < 0.1


def test_the_first_evaluation_of_each_network_is_full(pipe):
    hasten.apply(pipe, "solver=ddim,grid=uniform,steps=8")
    whole = drawn(pipe)
    hasten.cache_(pipe, "blocks(first=1,last=1,every=1)")
    assert np.array_equal(drawn(pipe), whole)
    hasten.cache_(pipe, "blocks(first=1,last=1,every=8)")
    seen = calls(pipe)
    assert not np.array_equal(drawn(pipe), whole)
    unhook(pipe)
    hasten.cache_(pipe, None)
    hasten.undo(pipe)
    guided = 2  # calls a step
    assert len(seen["transformer blocks"]) == len(seen["transformer_2 blocks"]) == guided
    assert len(seen["transformer"]) + len(seen["transformer_2"]) == 8 * guided


def test_both_are_captured_as_one_network(pipe):
    model = hasten.load(pipe, prompts=["a cat"], **CALL)
    sampler = hasten.build(model, hasten.Plan.read(PLAN).model_copy(update=dict(model.plan)))
    noise = torch.randn(1, *model.shape, generator=torch.Generator().manual_seed(1))
    mine = sampler.sample(noise=noise, condition=0)
    hasten.apply(pipe, PLAN)
    theirs = torch.from_numpy(drawn(pipe, latents=noise.clone())).movedim(-1, -3)
    hasten.undo(pipe)
    assert (mine - theirs).abs().max() < 1e-3
    assert model.family.captured(model.net)["networks"] == "two, from t = 750 on"


def test_rows_of_a_call_may_be_on_either_side_of_the_boundary(pipe):
    model = hasten.load(pipe, prompts=["a cat", "a bat"], **CALL)
    net, x, labels = model.net, torch.randn(3, *model.shape), torch.tensor([0, 1, 0])
    times = torch.tensor([900.0, 100.0, 760.0])
    with torch.no_grad():
        together = net(x, times, labels)
        alone = [net(x[i : i + 1], times[i : i + 1], labels[i : i + 1]) for i in range(3)]
    assert (together - torch.cat(alone)).abs().max() < 1e-4


def test_without_a_boundary_the_second_network_has_no_turn(pipe):
    import diffusers

    alone = diffusers.WanPipeline(**{**pipe.components, "transformer_2": None})
    alone.set_progress_bar_config(disable=True)
    hasten.apply(alone, PLAN)
    assert np.isfinite(drawn(alone)).all()
    hasten.undo(alone)


def test_a_lever_that_makes_another_network_is_refused(pipe):
    own = pipe.transformer, pipe.transformer_2
    with pytest.raises(UserError, match="lever 'merge' changes one network") as refusal:
        hasten.apply(pipe, "levers=[merge(share=0.5)]", **CALL)
    assert "\n" not in str(refusal.value)
    assert (pipe.transformer, pipe.transformer_2) == own


def test_a_feature_cache_of_the_captured_model_is_refused(pipe):
    model = hasten.load(pipe, prompts=["a cat"], **CALL)
    with pytest.raises(UserError, match="two take turns"):
        hasten.build(model, "levers=[blocks(first=1,last=1,every=2)]")
