"""Feature caches on networks whose forward is not known: every transformer of the zoo."""

from __future__ import annotations

import concurrent.futures
import copy
import functools
import gc
import pickle
import weakref
from typing import Any

import pytest
import torch
from test_capture import PLAN, call_of, loaded, pipelines_own
from torch import nn

import hasten
from hasten.adapters.block_span import STACKS, BlockSpan, blocks_of
from hasten.adapters.families import CapturedSplit
from hasten.adapters.recording import network_of
from hasten.adapters.split import span
from hasten.core.family import inner
from zoo import ZOO, built

TRANSFORMERS = [name for name in ZOO if ZOO[name].network == "transformer"]
QUICK = ("flux", "sd3", "wan", "z-image")
ONE_SCALE = {"instruct-pix2pix": {"image_guidance_scale": 1.0}}  # caches are refused with two


@functools.cache
def model_of(name: str) -> hasten.Model:
    pipe = built(name)
    pipe.set_progress_bar_config(disable=True)
    prompts, call = call_of(name)
    return loaded(name, pipe, prompts, {**call, **ONE_SCALE.get(name, {})})


def inputs(model: hasten.Model, n: int = 2) -> tuple[torch.Tensor, torch.Tensor, Any]:
    x = torch.randn(n, *model.shape, generator=torch.Generator().manual_seed(0))
    labels = None if model.labels is None else torch.zeros(n, dtype=torch.long)
    return x, torch.full((n,), 300.0), labels


UNETS = [name for name in ZOO if ZOO[name].network == "unet" and name not in ("sd15", "sd2-v")]
QUICK += ("sdxl", "sd-controlnet", "animatediff")


def some(names: list[str]) -> list[object]:
    """The quick ones, and the others among the slow tests."""
    slow = pytest.mark.slow
    return [name if name in QUICK else pytest.param(name, marks=slow) for name in names]


@pytest.mark.parametrize("name", some(TRANSFORMERS))
@pytest.mark.parametrize(("first", "last"), [(0, -1), (1, -1), (0, 0)])
@torch.no_grad()
def test_blocks_that_stand_aside_add_what_they_added(name, first, last):
    model = model_of(name)
    x, t, labels = inputs(model)
    split = model.net.split("blocks", first=first, last=last)
    whole = model.net(x, t, labels)
    answer, *features = split(x, t, labels)
    assert torch.equal(answer, whole)
    assert all(len(feature) == len(x) for feature in features)
    assert (split(x, t, labels, *features) - whole).norm() < 1e-5 * whole.norm()
    other = split(x + 0.1, t - 50, labels, *features)
    exact = model.net(x + 0.1, t - 50, labels)
    assert 1e-5 * exact.norm() < (other - exact).norm() < exact.norm()
    zero = split(x, t, labels, *(0 * feature for feature in features))
    assert (zero - whole).norm() > 1e-3 * whole.norm()  # the features are what makes the answer
    network = split.module.module
    assert not any("forward" in vars(block) for block in blocks_of(network))


@pytest.mark.parametrize("name", some(TRANSFORMERS))
@torch.no_grad()
def test_the_first_block_decides_for_every_sample(name):
    model = model_of(name)
    x, t, labels = inputs(model, 3)
    split = model.net.split("first-block", threshold=1e-3)
    answer, *features = split(x, t, labels)
    assert torch.equal(answer, model.net(x, t, labels))
    still, *same = split(x, t, labels, *features)
    assert (still - answer).norm() < 1e-5 * answer.norm()
    assert all(map(torch.equal, same, features))
    moved = x.clone()
    moved[1] += 1.0
    mixed, *new = split(moved, t, labels, *features)
    whole = model.net(moved, t, labels)
    assert (mixed - torch.stack([answer[0], whole[1], answer[2]])).norm() < 1e-5 * whole.norm()
    for old, now in zip(features, new, strict=True):
        assert torch.equal(now[[0, 2]], old[[0, 2]])
    assert any((now[1] - old[1]).abs().max() > 0 for old, now in zip(features, new, strict=True))


def test_a_cache_samples_within_a_plan_of_a_captured_pipeline():
    model = model_of("flux")
    plan = hasten.Plan(solver="ddim", grid="uniform", steps=4)
    whole = hasten.build(model, plan).sample(2, condition=0, raw=True)
    for lever in ("blocks(first=0, last=-1, every=2)", "first-block(threshold=0.5)"):
        some = hasten.build(model, plan.with_lever(lever)).sample(2, condition=0, raw=True)
        assert 0 < (some - whole).norm() < whole.norm()
    always = plan.with_lever("first-block(threshold=0)")
    assert torch.allclose(hasten.build(model, always).sample(2, condition=0, raw=True), whole)
    with pytest.raises(hasten.UserError, match="no feature cache of a U-Net can split a Flux"):
        hasten.build(model, plan.with_lever("deep(every=2)"))


@pytest.mark.parametrize("name", some(UNETS))
@pytest.mark.parametrize(
    ("kind", "where"), [*(("deep", {"branch": branch}) for branch in range(4)), ("encoder", {})]
)
@torch.no_grad()
def test_what_a_decoder_is_given_is_kept(name, kind, where):
    model = model_of(name)
    x, t, labels = inputs(model)
    net: Any = model.net
    split = CapturedSplit(net, span(inner(net), kind, **where))
    whole = net(x, t, labels)
    answer, *features = split(x, t, labels)
    assert torch.equal(answer, whole)
    assert (split(x, t, labels, *features) - whole).norm() < 1e-5 * whole.norm()
    other, exact = split(x + 0.1, t - 50, labels, *features), net(x + 0.1, t - 50, labels)
    assert 1e-6 * exact.norm() < (other - exact).norm() < exact.norm()
    zero = split(x, t, labels, *(0 * feature for feature in features))
    assert (zero - whole).norm() > 1e-3 * whole.norm()
    assert "forward" not in vars(inner(net).mid_block)
    assert torch.equal(net(x, t, labels), whole)


@pytest.mark.parametrize("name", some([n for n in TRANSFORMERS if n != "dit"]))
@torch.no_grad()
def test_what_tokens_attended_to_is_kept(name):
    model = model_of(name)
    x, t, labels = inputs(model)
    split = model.net.split("attention")
    answer, *features = split(x, t, labels)
    assert torch.equal(answer, model.net(x, t, labels))
    assert (split(x, t, labels, *features) - answer).norm() < 1e-5 * answer.norm()
    other, exact = split(x + 0.1, t, labels, *features), model.net(x + 0.1, t, labels)
    assert 1e-6 * exact.norm() < (other - exact).norm() < exact.norm()


FROM_NOISE = [
    name for name in (*TRANSFORMERS, *UNETS) if "img2img" not in name and name not in ONE_SCALE
]
CACHES = {
    "transformer": (
        "blocks(first=0, last=-1, every=2)",
        "blocks(first=0, last=0, forecast=1, every=2)",
    ),
    "unet": ("deep(branch=1, every=2)", "encoder(every=2)"),
}
EACH = [
    pytest.param(name, cache, marks=() if name in QUICK else pytest.mark.slow)
    for name in FROM_NOISE
    for cache in CACHES[ZOO[name].network]
]


@pytest.mark.parametrize(("name", "cache"), EACH)
def test_a_cache_in_a_pipeline_makes_what_a_sampler_makes(name, cache):
    pipe = built(name)
    pipe.set_progress_bar_config(disable=True)
    prompts, call = call_of(name)
    model = loaded(name, pipe, prompts, call)
    first, whole, _ = pipelines_own(name, pipe, model)
    hasten.cache_(pipe, cache)
    _, last, _ = pipelines_own(name, pipe, model)
    hasten.cache_(pipe, None)
    n = 1 if prompts is None else len(prompts)
    noise = first[:n].float() / hasten.trace(PLAN, model.schedule).start.spread
    plan = PLAN.model_copy(update=dict(model.plan)).with_lever(cache)
    condition = None if model.labels is None else list(range(n))
    mine = hasten.build(model, plan).sample(noise=noise, condition=condition, raw=True)
    assert (mine - last[:n]).norm() < 2e-4 * last[:n].norm()
    assert (last - whole).norm() > 2e-4 * whole.norm()


@pytest.mark.parametrize("name", some([n for n in TRANSFORMERS if "img2img" not in n]))
def test_a_first_block_that_always_moves_on_changes_nothing(name):
    pipe = built(name)
    pipe.set_progress_bar_config(disable=True)
    model = loaded(name, pipe, *call_of(name))
    _, whole, _ = pipelines_own(name, pipe, model)
    hasten.apply(pipe, PLAN.with_lever("first-block(threshold=0)"))
    scheduler = pipe.scheduler
    _, same, _ = pipelines_own(name, pipe, model)
    assert (same - whole).norm() < 1e-5 * whole.norm()
    assert pipe.scheduler is scheduler
    hasten.undo(pipe)
    hasten.apply(pipe, PLAN.with_lever("first-block(threshold=100)"))
    _, other, _ = pipelines_own(name, pipe, model)
    assert (other - whole).norm() > 2e-4 * whole.norm()


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["openvino", "onnxruntime", "compile"])
@pytest.mark.parametrize(
    ("name", "lever"),
    [("flux", "blocks(first=0, last=-1, every=2)"), ("sdxl", "deep(branch=0, every=2)")],
)
def test_engines_run_what_is_cut_while_it_runs(name, lever, engine):
    if engine != "compile":
        pytest.importorskip(engine)
    model = model_of(name)
    plan = hasten.Plan(solver="ddim", grid="uniform", steps=4).with_lever(lever)
    eager = hasten.build(model, plan).sample(1, condition=0, raw=True)
    plan = plan.model_copy(update={"engine": engine})
    other = hasten.build(model, plan).sample(1, condition=0, raw=True)
    assert (other - eager).norm() < 1e-5 * eager.norm()


def test_what_a_network_had_before_a_cache_it_has_after_it():
    pipe, calls = built("flux"), []
    own = pipe.transformer.forward

    def counted(*inputs: Any, **options: Any) -> Any:
        calls.append(1)
        return own(*inputs, **options)

    pipe.transformer.forward = counted
    hasten.cache_(pipe, "blocks(first=0, last=0)")
    with pytest.raises(hasten.UserError, match="give first <= last"):
        hasten.cache_(pipe, "blocks(first=2, last=1)")
    assert pipe.transformer.forward is not counted  # the good cache stays
    hasten.cache_(pipe, None)
    assert pipe.transformer.forward is counted
    hasten.cache_(pipe, "blocks(first=0, last=0)")
    around = pipe.transformer.forward
    pipe.transformer.forward = lambda *inputs, **options: around(*inputs, **options)
    hasten.cache_(pipe, None)  # what was put around it since stays, around the network's own
    pipe.set_progress_bar_config(disable=True)
    pipe(**{**ZOO["flux"].call, "num_inference_steps": 2})
    assert len(calls) == 2


def test_a_cache_is_neither_copied_nor_saved_with_its_pipeline(tmp_path):
    pipe = built("flux")
    pipe.set_progress_bar_config(disable=True)
    hasten.cache_(pipe, "blocks(first=0, last=0)")
    pipe(**{**ZOO["flux"].call, "num_inference_steps": 2})
    for copied in (copy.deepcopy, pickle.dumps):
        with pytest.raises(hasten.UserError, match=r"call hasten\.cache_\(pipe, None\) first"):
            copied(pipe.transformer)
    scheduler = copy.deepcopy(pipe.scheduler)
    before = pipe.scheduler.timesteps.clone()
    scheduler.set_timesteps(7, mu=1.0)
    assert len(scheduler.timesteps) == 7
    assert torch.equal(pipe.scheduler.timesteps, before)
    kind = type(pipe.scheduler)
    hasten.cache_(pipe, None)
    assert type(pipe.scheduler) is kind.__mro__[1]


def test_a_compiled_network_takes_no_cache_and_hides_none():
    pipe = built("flux")
    own = pipe.transformer
    hasten.cache_(pipe, "blocks(first=0, last=0)")
    pipe.transformer = torch.compile(own)
    with pytest.raises(hasten.UserError, match=r"compiled by torch\.compile"):
        hasten.cache_(pipe, "blocks(first=0, last=0)")
    hasten.cache_(pipe, None)
    assert "forward" not in vars(own)


def test_a_pipeline_with_a_cache_can_be_forgotten():
    pipe = built("sd15")
    pipe.set_progress_bar_config(disable=True)
    hasten.cache_(pipe, "deep(branch=0)")
    pipe(**{**ZOO["sd15"].call, "num_inference_steps": 2})
    scheduler, network = weakref.ref(pipe.scheduler), weakref.ref(pipe.unet)
    del pipe
    gc.collect()
    assert scheduler() is None
    assert network() is None


@torch.no_grad()
def test_nothing_that_was_kept_outlives_a_run():
    pipe = built("sd15")
    pipe.set_progress_bar_config(disable=True)
    x, words = torch.randn(2, *[pipe.unet.config.in_channels, 8, 8]), torch.randn(2, 8, 16)
    whole = pipe.unet(x, 500, words).sample
    hasten.cache_(pipe, "deep(branch=0)")
    pipe(**{**ZOO["sd15"].call, "num_inference_steps": 3})
    for _ in range(20):  # without a scheduler nobody knows what may be kept
        assert torch.equal(pipe.unet(x, 500, words).sample, whole)


@torch.no_grad()
def test_what_changes_after_a_cache_was_set_is_refused():
    unet = built("sdxl").unet
    deep = span(unet, "deep", branch=0)
    for block in unet.up_blocks:
        block.s1 = 0.9
    with pytest.raises(hasten.UserError, match="FreeU"):
        deep(lambda: None, 1)
    net, x = Doubling(), torch.randn(2, 4, 4)
    kept = BlockSpan(net, 0, 2)
    _, features = kept(lambda: net(x), 2)
    net.factor = 2.0
    for known in ((), features):
        with pytest.raises(hasten.UserError, match="changes what its block 0 hands on to block 1"):
            kept(lambda: net(x), 2, known)


def test_threads_do_not_meet_in_each_others_cuts():
    model = model_of("sdxl")
    plan = hasten.Plan(solver="ddim", grid="uniform", steps=4).with_lever("encoder(every=2)")
    sampler = hasten.build(model, plan)
    alone = [sampler.sample(1, seed=seed, condition=0, raw=True) for seed in range(3)]
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        made = [pool.submit(sampler.sample, 1, seed=n, condition=0, raw=True) for n in range(3)]
    for seed, one in enumerate(made):
        assert torch.allclose(one.result(), alone[seed], atol=1e-4)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return hidden_states + self.linear(hidden_states)


class Between(nn.Module):
    """Doubles its tokens between its blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.blocks[0](x)
        return self.blocks[2](self.blocks[1](2 * x))


class Doubling(Between):
    factor = 1.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.blocks[0](x)
        x = x if self.factor == 1.0 else self.factor * x
        return self.blocks[2](self.blocks[1](x))


class Backwards(Between):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in reversed(self.blocks):
            x = block(x)
        return x


@pytest.mark.parametrize(
    ("make", "first", "last", "refusal"),
    [
        (Between, 0, 2, "changes what its block 0 hands on to block 1"),
        (Backwards, 0, 1, "does not run its blocks once each, in their order"),
        (Between, 0, 3, "has 3 blocks; give first <= last from 0 to 2"),
        (Between, 2, 1, "has 3 blocks; give first <= last from 0 to 2"),
    ],
)
def test_what_no_cache_can_span_is_refused(make, first, last, refusal):
    net, x = make(), torch.randn(2, 4, 4)
    with pytest.raises(hasten.UserError, match=refusal):
        BlockSpan(net, first, last)(lambda: net(x), 2)
    assert not any("forward" in vars(block) for block in net.blocks)


def test_a_network_that_doubles_between_blocks_is_spanned_on_one_side():
    net, x = Between(), torch.randn(2, 4, 4)
    span = BlockSpan(net, 1, 2)
    answer, features = span(lambda: net(x), 2)
    assert torch.allclose(span(lambda: net(x), 2, features), answer)


def test_every_transformer_of_the_zoo_has_blocks():
    for name in TRANSFORMERS:
        network = network_of(built(name))[1]
        assert len(blocks_of(network)) > 1, (name, STACKS)
