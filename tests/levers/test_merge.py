"""Token merging."""

from __future__ import annotations

import pytest
import torch

import hasten
from conftest import dit_model
from hasten import Plan, UserError
from hasten.adapters.attention import FoldedAttention
from hasten.core.lever import levers
from hasten.exporting.export import export
from hasten.learning.compression.quantize import learn_quantize
from hasten.levers.merge import matching
from hasten.measuring.macs import macs

BASE = Plan(solver="ddim", grid="uniform", steps=3)
HALF = "merge(share=0.5)"


def pictures(model: hasten.Model, *levers: str, **changes: object) -> torch.Tensor:
    noise = torch.randn(2, *model.shape, generator=torch.Generator().manual_seed(0))
    plan = BASE.model_copy(update={"levers": levers, **changes})
    return hasten.build(model, plan).sample(noise=noise, condition=[0, 1], raw=True)


def apart(mine: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((mine - wanted).square().mean().sqrt() / wanted.std())


@pytest.mark.parametrize("tokens", [16, 14])
def test_tokens_that_are_alike_become_one_and_come_back(tokens):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(3, tokens, 6, generator=generator)
    fold, unfold = matching(x, 0.5)
    small = fold(x)
    assert small.shape == (3, tokens - tokens // 2, 6)
    back = unfold(small)
    same = (back == x).all(-1).sum(1)
    assert back.shape == x.shape
    assert ((same > 0) & (same < tokens)).all()
    twins = x[:, :1].expand(-1, tokens, -1).contiguous()
    fold, unfold = matching(twins, 0.75)
    assert torch.allclose(unfold(fold(twins)), twins, atol=1e-6)


def test_the_most_alike_go_into_their_mean():
    x = torch.eye(16)[None].clone()  # a square of 4: tokens 0, 2, 8 and 10 take others in
    x[0, 5] = 2 * x[0, 10]
    fold, unfold = matching(x, 1 / 16)
    back = unfold(fold(x))
    assert torch.equal(back[0, 5], 1.5 * x[0, 10])
    assert torch.equal(back[0, 10], back[0, 5])
    others = [i for i in range(16) if i not in (5, 10)]
    assert torch.equal(back[0, others], x[0, others])


def test_merging_costs_less_moves_pictures_a_little_and_the_model_not_at_all():
    model = dit_model(2)
    whole = pictures(model)
    moved = [apart(pictures(model, f"merge(share={share})"), whole) for share in (0.05, 0.25, 0.75)]
    assert moved[0] < 1e-5  # less than a token
    assert 0 < moved[1] < moved[2] < 1
    plans = (BASE, BASE.with_lever(HALF))
    before, after = (macs(hasten.build(model, plan)) for plan in plans)
    assert after < before
    assert not any(
        isinstance(m.processor, FoldedAttention)
        for m in model.net.modules()
        if hasattr(m, "processor")
    )
    assert torch.equal(pictures(model), whole)


def test_a_picture_does_not_depend_on_the_others_of_its_batch():
    model = dit_model(2)
    sampler = hasten.build(model, BASE.with_lever(HALF))
    noise = torch.randn(3, *model.shape, generator=torch.Generator().manual_seed(2))
    together = sampler.sample(noise=noise, condition=[0, 1, 2])
    alone = sampler.sample(noise=noise[1:2], condition=[1])
    assert torch.allclose(together[1:2], alone, atol=1e-5)


@pytest.mark.parametrize(
    ("way", "cache"),
    [
        pytest.param({"engine": "openvino"}, (), marks=pytest.mark.slow),
        pytest.param({"engine": "onnxruntime"}, ("blocks(every=2)",), marks=pytest.mark.slow),
        ({"executor": "picard"}, ()),
        ({"engine": "eager"}, ("attention(every=2)",)),
    ],
    ids=str,
)
def test_it_meets_engines_executors_and_feature_caches(way, cache):
    pytest.importorskip(way.get("engine", "torch").replace("eager", "torch"))
    model = dit_model(4)
    wanted = pictures(model, HALF, *cache)
    assert apart(pictures(model, HALF, *cache, **way), wanted) < 2e-3


def test_a_quantization_is_calibrated_on_merged_tokens(tmp_path):
    model, file = dit_model(2), str(tmp_path / "w8a8.safetensors")
    learn_quantize(model, BASE.with_lever(HALF), file, n=4)
    both = pictures(model, HALF, f"quantize(file={file!r})")
    assert 0 < apart(both, pictures(model, HALF)) < 0.3


@pytest.mark.slow
def test_an_export_merges_too(tmp_path):
    pytest.importorskip("onnxruntime")
    plan = BASE.with_lever(HALF)
    assert export(dit_model(1), plan, "onnx", tmp_path / "out").psnr > 45


def test_a_network_without_such_blocks_and_a_share_out_of_range_are_refused(tiny_model):
    with pytest.raises(UserError, match="drop merge"):
        hasten.build(tiny_model(labels=2), BASE.with_lever(HALF))
    for share in (0.0, 0.8, float("nan")):
        with pytest.raises(UserError, match="share is "):
            levers.make("merge", {"share": share})
