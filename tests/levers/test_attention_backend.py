"""Which kernel computes attention."""

from __future__ import annotations

import pytest
import torch
from torch.nn.attention import SDPBackend

import hasten
from conftest import dit_model
from hasten import Plan, UserError
from zoo import ZOO, built

BASE = Plan(solver="ddim", grid="uniform", steps=3)


def pictures(model: hasten.Model, name: str | None) -> torch.Tensor:
    levers = () if name is None else (f"attention-backend(name={name!r})",)
    noise = torch.randn(2, *model.shape, generator=torch.Generator().manual_seed(0))
    plan = BASE.model_copy(update={"levers": levers})
    return hasten.build(model, plan).sample(noise=noise, condition=[0, 1], raw=True)


@pytest.mark.parametrize("name", ["torch-math", "torch-flash"])
def test_kernels_of_torch_give_the_same_pictures(name, monkeypatch):
    from hasten.levers import attention_backend

    chosen, kernel = [], attention_backend.sdpa_kernel
    monkeypatch.setattr(
        attention_backend, "sdpa_kernel", lambda which: chosen.append(which) or kernel(which)
    )
    model = dit_model(2)
    plain = pictures(model, None)
    assert torch.allclose(pictures(model, name), plain, atol=1e-5 * float(plain.std()))
    expected = SDPBackend.MATH if name == "torch-math" else SDPBackend.FLASH_ATTENTION
    assert chosen == [expected] * 3


def test_the_backend_is_that_of_the_plans_network_alone():
    from diffusers.models.attention_dispatch import _AttentionBackendRegistry

    before = _AttentionBackendRegistry.get_active_backend()
    pipe = built("flux")
    own = [part.processor for part in pipe.transformer.modules() if hasattr(part, "processor")]
    hasten.apply(
        pipe, "solver=euler,grid=uniform,steps=2,levers=[attention-backend(name='_native_math')]"
    )
    put = [part.processor for part in pipe.transformer.modules() if hasattr(part, "processor")]
    assert {one._attention_backend.value for one in put} == {"_native_math"}
    assert {one._attention_backend for one in own} == {None}
    assert _AttentionBackendRegistry.get_active_backend() == before
    options = {**ZOO["flux"].call, "output_type": "latent", "generator": torch.Generator()}
    with_lever = pipe(**options).images
    hasten.undo(pipe)
    hasten.apply(pipe, "solver=euler,grid=uniform,steps=2")
    options["generator"] = torch.Generator()
    assert torch.allclose(with_lever, pipe(**options).images, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("sage", "does not ask diffusers for its kernel; choose one of torch's"),
        ("nonsense", "no attention backend of diffusers; it has .*sage"),
        ("torch-flush", "give torch-math, torch-flash"),
    ],
)
def test_a_backend_that_cannot_be_used_is_refused(tiny_model, name, words):
    with pytest.raises(UserError, match=words):
        pictures(tiny_model(labels=3), name)


def test_an_engine_with_kernels_of_its_own_takes_no_other(tiny_model):
    plan = "solver=ddim,steps=2,engine=openvino,levers=[attention-backend]"
    with pytest.raises(UserError, match="has its own; set engine=eager"):
        hasten.build(tiny_model(), plan)
