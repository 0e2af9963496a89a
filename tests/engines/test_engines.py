"""Engines: every one answers as eager float32 does, or says why it cannot."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import types
from pathlib import Path

import pytest
import torch

import hasten
from hasten.core.conditioning_cache import told
from hasten.core.engine import Static, engines
from hasten.core.errors import UserError
from hasten.core.plan import Plan
from hasten.core.seeds import generator
from hasten.engines import compile as compiling
from hasten.engines.group_norm import by_channel
from hasten.sampling import engines_here, prepare
from hasten.starts import offer

EXPORTED = ("openvino", "onnxruntime")


@pytest.fixture
def noise() -> torch.Tensor:
    return torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("engine", EXPORTED)
@pytest.mark.parametrize("labels", [None, 3])
def test_an_engine_makes_the_pictures_that_eager_makes(tiny_model, noise, engine, labels):
    model = tiny_model(labels=labels)
    cond = None if labels is None else [0, 1, 2, 0, 1]
    plan = Plan(steps=4, guidance=1.0 if labels is None else 2.0)
    wanted = hasten.build(model, plan).sample(noise=noise, condition=cond)
    other = hasten.build(model, plan.model_copy(update={"engine": engine}))
    # Four float32 evaluations of a network whose answers are multiplied by up to 157.
    assert (other.sample(noise=noise, condition=cond) - wanted).abs().max() < 1e-3
    assert other.net.precision == "float32"
    assert other.net.versions[engine]


def test_compile_makes_the_pictures_that_eager_makes(tiny_model, noise):
    model = tiny_model()
    wanted = hasten.build(model, Plan(steps=3)).sample(noise=noise)
    got = hasten.build(model, Plan(steps=3, engine="compile")).sample(noise=noise)
    assert (got - wanted).abs().max() < 1e-3


def test_openvino_computes_in_what_was_asked_and_says_so(tiny_model, noise):
    model = tiny_model()
    times = torch.full((5,), 500.0)
    wanted = prepare(model, Plan())(noise, times)
    exact = prepare(model, Plan(engine="openvino"))
    assert (exact(noise, times) - wanted).abs().max() < 1e-4
    narrow = prepare(model, Plan(engine="openvino", dtype="bfloat16"))
    if "avx512_bf16" not in Path("/proc/cpuinfo").read_text():
        with pytest.raises(UserError, match="OpenVINO computes in"):
            narrow(noise, times)
        return
    apart = (narrow(noise, times) - wanted).norm() / wanted.norm()
    assert narrow.precision == "bfloat16"
    assert 1e-4 < apart < 5e-2


def test_the_precision_that_openvino_reports_is_checked(tiny_model, noise, monkeypatch):
    import collections

    from hasten.engines import openvino

    monkeypatch.setattr(
        openvino, "_precisions", lambda _: collections.Counter({"bf16": 9, "f32": 1})
    )
    with pytest.raises(UserError, match="OpenVINO computes in bf16"):
        prepare(tiny_model(), Plan(engine="openvino"))(noise, torch.zeros(5))


def test_a_batch_that_fills_half_of_a_size_is_padded_up_to_it():
    class Recorded(Static):
        precision, weights_mb = "float32", 0.0
        versions: dict[str, str] = {}  # noqa: RUF012

        def compile(self, x, t, cond):
            def call(x, t, cond):
                assert len(x) == len(t) == len(cond)
                return x + t[:, None] + cond[:, None]

            return call

    net = Recorded(None)  # type: ignore[arg-type]
    for n in (64, 40, 32, 31, 16, 15, 64, 7, 1):
        x, t, cond = torch.randn(n, 2), torch.rand(n), torch.arange(n)
        assert torch.equal(net(x, t, cond), x + t[:, None] + cond[:, None])
    assert sorted(net._sizes) == [1, 7, 15, 31, 64]


def test_a_missing_package_is_refused_with_the_line_that_installs_it(tiny_model, monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name in EXPORTED else real(name)
    )
    for engine, extra in (("openvino", "openvino"), ("onnxruntime", "onnx")):
        with pytest.raises(UserError, match=rf'pip install "hasten\[{extra}\]"'):
            hasten.build(tiny_model(), Plan(engine=engine))
    assert "pip install" in engines_here()["openvino"]
    assert engines_here()["eager"] == "float32, bfloat16, float16"


def test_compile_without_a_compiler_says_what_to_install(tiny_model, monkeypatch):
    monkeypatch.setattr(compiling.shutil, "which", lambda name: None)
    with pytest.raises(UserError, match=r"needs a C\+\+ compiler"):
        hasten.build(tiny_model(), Plan(engine="compile"))


def test_a_network_that_cannot_be_exported_is_named(tiny_model, noise):
    class Looks(torch.nn.Module):
        def forward(self, x, t, condition=None):
            return x if float(t[0]) > 3 else -x

    model = dataclasses.replace(tiny_model(), net=Looks(), name="looks")
    for engine in EXPORTED:
        with pytest.raises(
            UserError, match=r"'looks' cannot be exported to ONNX \(.*set engine=eager"
        ):
            hasten.build(model, Plan(engine=engine, steps=2)).sample(noise=noise)


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        ({"engine": "onnxruntime", "dtype": "bfloat16"}, "computes in float32"),
        ({"engine": "openvin"}, "Did you mean 'openvino'"),
        ({"engine": "cudagraph"}, "runs on cuda, but model"),
        ({"device": "cuda"}, "the plan is for device 'cuda'"),
        ({"device": "tpu"}, "device"),
    ],
)
def test_an_engine_or_device_that_does_not_fit_is_refused(tiny_model, plan, words):
    with pytest.raises(UserError, match=words):
        hasten.build(tiny_model(), Plan(**plan))


class Written:
    """What a CUDA graph is to the one who records it: calls that write to the same memory again."""

    def __init__(self) -> None:
        self.out, self.given, self.calls = torch.zeros(4, 1, 8, 8), (), 0

    def __call__(self, *given: torch.Tensor) -> torch.Tensor:
        self.given, self.calls = given, self.calls + 1
        return self.replay()

    def replay(self) -> torch.Tensor:
        x, t, _ = self.given
        return self.out.copy_(2 * x + t.view(-1, 1, 1, 1))


def test_a_recording_is_replayed_on_new_inputs(tiny_model, monkeypatch):
    from hasten.engines.cudagraph import WARM, CudaGraph

    stream = types.SimpleNamespace(wait_stream=lambda _: None)
    written = Written()
    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: written)
    monkeypatch.setattr(torch.cuda, "Stream", lambda: stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda _: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "graph", lambda _: contextlib.nullcontext())
    net = CudaGraph().prepare(tiny_model(), "float32")
    net.cast = written
    x, t = torch.randn(4, 1, 8, 8), torch.arange(4.0)
    first, other = net(x, t), net(-x, t)
    assert torch.equal(first, 2 * x + t.view(-1, 1, 1, 1))
    assert torch.equal(other, -2 * x + t.view(-1, 1, 1, 1))
    assert torch.equal(net(x[:3], t[:3]), first[:3])  # padded up to the size that is known
    assert written.calls == WARM + 1

    def broken(*_: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("operation not permitted when stream is capturing")

    net.cast = broken
    with pytest.raises(UserError, match=r"cannot record.*stream is capturing.*engine=eager"):
        net(torch.randn(9, 1, 8, 8), torch.arange(9.0))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_a_cuda_graph_makes_the_pictures_that_eager_makes(tiny_model, noise):
    model = tiny_model()
    model = dataclasses.replace(model, net=model.net.cuda())
    wanted = hasten.build(model, Plan(steps=3)).sample(noise=noise)
    got = hasten.build(model, Plan(steps=3, engine="cudagraph")).sample(noise=noise)
    assert (got - wanted).abs().max() < 1e-3


def test_every_engine_declares_what_it_is():
    for name in engines:
        kind = engines[name]
        assert kind.__doc__
        assert set(kind.dtypes) <= {"float32", "bfloat16", "float16"}
        assert bool(kind.modules) == bool(kind.extra)


def test_importing_engines_imports_no_runtime():
    import subprocess
    import sys

    code = "import hasten.engines, sys\n"
    code += "sys.exit(any(n in sys.modules for n in ('openvino', 'onnxruntime', 'onnx')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_what_is_told_of_time_and_label_is_computed_ahead(tiny_model):
    model = tiny_model(labels=2)
    before = {name: value.clone() for name, value in model.net.state_dict().items()}
    found = told(model.net)
    assert found is not None
    assert told(model.net) is found
    net, shifts = found
    x, t = torch.randn(4, *model.shape), torch.tensor([3.0, 363.36, 999.0, 3.0])
    cond = torch.tensor([0, 1, 1, 0])
    with torch.no_grad():
        assert torch.allclose(net(x, shifts(t, cond)), model.net(x, t, cond), atol=1e-5)
        one = torch.full((4,), 363.36)
        assert torch.allclose(net(x, shifts(one, cond)), model.net(x, one, cond), atol=1e-5)
    assert all(torch.equal(value, before[name]) for name, value in model.net.state_dict().items())
    assert told(torch.nn.Conv2d(1, 1, 3)) is None


def test_bfloat16_does_not_round_the_time():
    """One evaluation of a student, whose network knows the times of its plan and no others."""
    pytest.importorskip("openvino")
    if "bfloat16" not in engines_here()["openvino"]:
        pytest.skip("no bfloat16 here")
    model = hasten.load("builtin:mnist-2")
    plan = hasten.Plan(**model.plans[1])
    noise = torch.randn(8, *model.shape, generator=generator(1))
    exact = hasten.build(model, plan).sample(noise=noise, condition=[0] * 8)
    quick = plan.model_copy(update={"engine": "openvino", "dtype": "bfloat16"})
    apart = hasten.build(model, quick).sample(noise=noise, condition=[0] * 8) - exact
    assert float(apart.square().mean().sqrt()) < 0.02


@pytest.mark.parametrize("shape", [(2, 12, 5, 3), (2, 12, 7)])
def test_groups_are_normalised_by_sums_over_channels(shape):
    norm = torch.nn.GroupNorm(4, 12)
    with torch.no_grad():
        norm.weight.normal_(), norm.bias.normal_()
        x = 3 + 2 * torch.randn(shape, generator=generator(1))
        net = torch.nn.ModuleDict({"inner": torch.nn.Sequential(norm)})
        mine = by_channel(net)
        assert torch.allclose(mine["inner"](x), norm(x), atol=2e-5)
    assert isinstance(net["inner"][0], torch.nn.GroupNorm)
    assert not any(isinstance(part, torch.nn.GroupNorm) for part in mine.modules())


@pytest.mark.parametrize(("engine", "seen"), [("eager", 2), ("openvino", 1), ("onnxruntime", 1)])
def test_torch_has_one_thread_beside_a_runtime_and_all_of_them_again(tiny_model, engine, seen):
    before, counts = torch.get_num_threads(), []
    torch.set_num_threads(2)
    try:
        sampler = hasten.build(tiny_model(), Plan(steps=2, engine=engine))
        sampler.sample(1, watch=lambda *_: counts.append(torch.get_num_threads()))
        assert counts == [seen, seen]
        assert torch.get_num_threads() == 2
        with pytest.raises(ZeroDivisionError):
            sampler.sample(1, watch=lambda *_: 1 / 0)
        assert torch.get_num_threads() == 2
        if isinstance(sampler.net, Static):
            assert sampler.net.threads == 2
    finally:
        torch.set_num_threads(before)


def test_a_start_that_runs_a_network_keeps_torchs_threads(tiny_model):
    before, counts = torch.get_num_threads(), []

    def make(noise, cond):
        counts.append(torch.get_num_threads())
        return noise.clamp(0, 1)

    offer("counting", make)
    torch.set_num_threads(2)
    try:
        start = "generator(source='offered:counting', ratio=1.0)"
        hasten.build(tiny_model(), Plan(steps=2, engine="openvino", start=start)).sample(1)
        assert counts == [2]
    finally:
        torch.set_num_threads(before)
