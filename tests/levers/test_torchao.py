"""Linear layers in few bits by torchao."""

from __future__ import annotations

import importlib.util

import pytest
import torch

import hasten
from conftest import dit_model
from hasten import Plan, UserError
from hasten.levers.quantize import layers
from zoo import ZOO, built

BASE = Plan(solver="ddim", grid="uniform", steps=4)
INSTALLED = importlib.util.find_spec("torchao") is not None
needed = pytest.mark.skipif(not INSTALLED, reason="torchao is not installed")


def pictures(model: hasten.Model, **changes) -> torch.Tensor:
    plan = BASE.model_copy(update=changes)
    noise = torch.randn(2, *model.shape, generator=torch.Generator().manual_seed(0))
    return hasten.build(model, plan).sample(noise=noise, condition=[0, 1], raw=True)


@needed
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", ["int8", "int8-weights"])
def test_pictures_move_a_little_and_the_model_not_at_all(kind, dtype):
    model = dit_model(2)
    before = {name: value.clone() for name, value in model.net.state_dict().items()}
    plain, small = (
        pictures(model, levers=levers, dtype=dtype) for levers in ((), (f"torchao(kind={kind!r})",))
    )
    apart = float((plain - small).square().mean().sqrt() / plain.std())
    assert 0 < apart < 0.2
    assert all(torch.equal(value, before[name]) for name, value in model.net.state_dict().items())


@needed
def test_weights_take_a_quarter_where_they_are_in_eight_bits():
    model = dit_model(2)
    whole, small = (
        hasten.sampling.prepare(model, BASE.model_copy(update={"levers": levers}))
        for levers in ((), ("torchao(kind='int8-weights')",))
    )
    linear = [part for _, part in layers(model.net) if isinstance(part, torch.nn.Linear)]
    saved = 3 * sum(part.weight.numel() for part in linear) / 1e6
    scales = 5 * sum(part.out_features for part in linear) / 1e6
    assert small.weights_mb == pytest.approx(whole.weights_mb - saved + scales, abs=2e-3)
    assert f"{len(linear)} layers in int8-weights" in small.precision


@needed
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"levers": "torchao(kind='int3')"}, "int3"),
        ({"levers": "torchao(kind='fp8')"}, "use int8"),
        ({"levers": "torchao", "engine": "openvino"}, "engine=compile"),
    ],
)
def test_what_cannot_run_is_refused(changes, words):
    with pytest.raises(UserError, match=words):
        hasten.sampling.prepare(dit_model(1), BASE.model_copy(update=changes))


def test_a_network_of_convolutions_and_a_missing_package_are_refused(tiny_model, monkeypatch):
    plan = BASE.with_lever("torchao")
    model = tiny_model(labels=2)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install torchao"):
        hasten.sampling.prepare(model, plan)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    if not any(isinstance(part, torch.nn.Linear) for _, part in layers(model.net)):
        with pytest.raises(UserError, match="no linear layers"):
            hasten.sampling.prepare(model, plan)


@needed
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_pipeline_carries_it_and_gets_its_own_network_back(dtype):
    pipe = built("pixart-sigma").to(dtype=dtype)
    pipe.set_progress_bar_config(disable=True)
    call = {**ZOO["pixart-sigma"].call, "output_type": "pt"}

    def drawn() -> torch.Tensor:
        return pipe(**call, generator=torch.Generator().manual_seed(0)).images.float()

    own, plan = pipe.transformer, "solver=ddim,grid=uniform,steps=3"
    hasten.apply(pipe, plan)
    plain = drawn()
    hasten.undo(pipe)
    options = {key: value for key, value in ZOO["pixart-sigma"].call.items() if key != "prompt"}
    hasten.apply(pipe, plan + ",levers=[torchao]", **options)
    kinds = {type(value.data).__name__ for value in pipe.transformer.parameters()}
    assert kinds - {"Tensor", "Parameter"}
    assert pipe.transformer.dtype == dtype
    small = drawn()
    hasten.undo(pipe)
    assert pipe.transformer is own
    assert 0 < float((small - plain).abs().mean()) < 0.05


@needed
def test_text_encoders_are_carried_in_few_bits_too():
    pipe = built("pixart-sigma")
    pipe.set_progress_bar_config(disable=True)
    own = pipe.text_encoder
    hasten.apply(pipe, "solver=ddim,grid=uniform,steps=2,levers=[text-encoder]")
    small = pipe.text_encoder
    assert small is not own
    kinds = {type(value.data).__name__ for value in small.parameters()}
    assert kinds - {"Tensor", "Parameter"}
    call = {**ZOO["pixart-sigma"].call, "output_type": "pt"}
    assert pipe(**call).images.isfinite().all()
    hasten.undo(pipe)
    assert pipe.text_encoder is own
