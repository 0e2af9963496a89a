"""Engines: every one answers as eager float32 does, or says why it cannot."""

from __future__ import annotations

import dataclasses
import functools
import gc
import importlib.util
import weakref
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch

import hasten
from conftest import dit_model, make_tiny_model
from hasten.core.condition import Condition, PerSample, Ragged, Shared
from hasten.core.conditioning_cache import conditioning_cache
from hasten.core.engine import Static, engines
from hasten.core.errors import UserError
from hasten.core.family import PLAIN
from hasten.core.model import Model
from hasten.core.plan import Plan
from hasten.core.random_streams import generator
from hasten.engines import compile as compiling
from hasten.engines import graph
from hasten.engines.compile_blocks import with_compiled_blocks
from hasten.engines.group_norm import by_channel
from hasten.sampling import engines_here, prepare
from hasten.starts import offer

EXPORTED = ("openvino", "onnxruntime")


@pytest.fixture(scope="module")
def shared() -> Callable[..., Model]:
    """The same tiny models for every test of this file that changes none: what an engine exported
    of one, another engine can take."""
    return functools.cache(make_tiny_model)


@pytest.fixture
def noise() -> torch.Tensor:
    return torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("engine", EXPORTED)
@pytest.mark.parametrize("labels", [pytest.param(None, marks=pytest.mark.slow), 3])
def test_an_engine_makes_the_pictures_that_eager_makes(shared, noise, engine, labels):
    model = shared(labels=labels)
    condition = None if labels is None else [0, 1, 2, 0, 1]
    plan = Plan(steps=4, guidance=1.0 if labels is None else 2.0)
    wanted = hasten.build(model, plan).sample(noise=noise, condition=condition)
    other = hasten.build(model, plan.model_copy(update={"engine": engine}))
    # Four float32 evaluations of a network whose answers are multiplied by up to 157.
    assert (other.sample(noise=noise, condition=condition) - wanted).abs().max() < 1e-3
    assert other.net.precision == "float32"
    assert other.net.versions[engine]


@pytest.mark.slow  # a minute of compilation; test_feature_cache.py compiles a small network
def test_compile_makes_the_pictures_that_eager_makes(tiny_model, noise):
    model = tiny_model()
    wanted = hasten.build(model, Plan(steps=3)).sample(noise=noise)
    got = hasten.build(model, Plan(steps=3, engine="compile")).sample(noise=noise)
    assert (got - wanted).abs().max() < 1e-3


def test_blocks_are_compiled_in_a_copy_that_shares_its_weights():
    model = dit_model(2)
    plan = Plan(solver="ddim", grid="uniform", steps=3)
    noise = torch.randn(2, *model.shape, generator=torch.Generator().manual_seed(0))
    wanted = hasten.build(model, plan).sample(noise=noise, condition=[0, 1])
    sampler = hasten.build(model, plan.model_copy(update={"engine": "compile-blocks"}))
    got = sampler.sample(noise=noise, condition=[0, 1])
    assert torch.allclose(got, wanted, atol=1e-4)
    net = sampler.net.net
    own, put = (model.family.blocks(each) for each in (model.net, net))
    assert all(block._compiled_call_impl is None for block in own)
    assert all(block._compiled_call_impl is not None for block in put)
    pairs = zip(model.net.parameters(), net.parameters(), strict=True)
    assert all(mine is theirs for mine, theirs in pairs)


def test_a_network_without_known_blocks_is_compiled_whole():
    with pytest.raises(UserError, match=r"knows no repeated blocks .* set engine=compile"):
        with_compiled_blocks(torch.nn.Linear(2, 2), PLAIN)


def test_openvino_computes_in_what_was_asked_and_says_so(shared, noise):
    model = shared()
    times = torch.full((5,), 500.0)
    wanted = prepare(model, Plan())(noise, times)
    exact = prepare(model, Plan(engine="openvino"))
    assert (exact(noise, times) - wanted).abs().max() < 1e-4
    narrow = prepare(model, Plan(engine="openvino", dtype="bfloat16"))
    try:
        answer = narrow(noise, times)
    except UserError as error:
        refusal = str(error)
    else:
        refusal, apart = "", (answer - wanted).norm() / wanted.norm()
    if refusal:  # a processor without such instructions; what OpenVINO reports is checked below
        assert "OpenVINO computes in f32 on this CPU" in refusal
        return
    assert narrow.precision == "bfloat16"
    assert 1e-4 < apart < 5e-2


def test_the_precision_that_openvino_reports_is_checked(shared, noise, monkeypatch):
    import collections

    from hasten.engines import openvino

    monkeypatch.setattr(
        openvino, "_precisions", lambda _: collections.Counter({"bf16": 9, "f32": 1})
    )
    with pytest.raises(UserError, match="OpenVINO computes in bf16"):
        prepare(shared(), Plan(engine="openvino"))(noise, torch.zeros(5))


def test_a_batch_that_fills_half_of_a_size_is_padded_up_to_it(tiny_model):
    sizes = []

    class Recorded(Static):
        precision, weights_mb = "float32", 0.0
        versions: dict[str, str] = {}  # noqa: RUF012

        def compile(self, flat, inputs):
            sizes.append(len(inputs[0]))

            def call(x, t, labels):
                assert [len(value) for value in (x, t, labels)] == [len(inputs[0])] * 3
                return x + t[:, None] + labels[:, None]

            return call

    net = Recorded(tiny_model())
    for n in (64, 40, 32, 31, 16, 15, 64, 7, 1):
        x, t, labels = torch.randn(n, 2), torch.rand(n), torch.arange(n)
        assert torch.equal(net(x, t, labels), x + t[:, None] + labels[:, None])
    assert sizes == [64, 31, 15, 7, 1]


@pytest.mark.parametrize(
    "engine", [pytest.param("openvino", marks=pytest.mark.slow), "onnxruntime"]
)
@pytest.mark.slow
def test_conditions_of_other_parts_have_graphs_of_their_own(engine):
    """Frames, a list, a shared number: an engine takes the tensors of a condition one by one."""

    class Given(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.full((1, 1), 0.5))

        def forward(self, x, t, condition=None):
            given = {} if condition is None else condition.values(x, t)
            out = x * self.weight + t[:, None]
            if "frames" in given:
                out = out + given["frames"].view(len(x), 2, -1).sum(1) * given["scale"]
            for text in given.get("texts", []):
                out = out + text.sum()
            return out

    model = Model(
        net=Given().requires_grad_(False),
        schedule=hasten.schedule("ddpm"),
        prediction=hasten.prediction("x0"),
        shape=(3,),
    )
    x, t = torch.randn(4, 3), torch.rand(4)
    frames = {"frames": PerSample(torch.randn(8, 3), each=2), "scale": Shared(2.0)}
    texts = {"texts": Ragged(tuple(torch.randn(k + 1, 3) for k in range(4)))}
    conditions = [Condition(4, {"cond": tree}) for tree in ({}, frames, texts, frames | texts)]
    net = prepare(model, Plan(engine=engine))
    for condition in conditions:
        wanted = model.net(x, t, condition)
        assert (net(x, t, condition) - wanted).abs().max() < 1e-5
    some = conditions[1].rows([0, 1, 2])  # padded up to four, both frames of each
    wanted = model.net(x[:3], t[:3], some)
    assert (net(x[:3], t[:3], some) - wanted).abs().max() < 1e-5


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
    for engine in ("compile", "compile-blocks"):
        with pytest.raises(UserError, match=rf"{engine}' needs a C\+\+ compiler"):
            hasten.build(tiny_model(), Plan(engine=engine))


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


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_a_cuda_graph_makes_the_pictures_that_eager_makes(tiny_model, noise):
    model = tiny_model()
    model = dataclasses.replace(model, net=model.net.cuda())
    plain, recorded = (
        hasten.build(model, Plan(steps=3, engine=engine)) for engine in ("eager", "cudagraph")
    )
    for some in (noise, -noise, noise[:3]):  # recorded, replayed, padded up to what is known
        apart = recorded.sample(noise=some) - plain.sample(noise=some)
        assert apart.abs().max() < 1e-3


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_what_a_cuda_graph_cannot_record_is_refused(tiny_model, noise):
    class Looks(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones((), device="cuda"))

        def forward(self, x, t, condition=None):
            return x * self.weight if float(x.sum()) > 0 else -x  # waits for the device

    model = dataclasses.replace(tiny_model(), net=Looks())
    with pytest.raises(UserError, match=r"cannot record.*engine=eager"):
        hasten.build(model, Plan(steps=2, engine="cudagraph")).sample(noise=noise)


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


@pytest.mark.slow
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
def test_torch_has_one_thread_beside_a_runtime_and_all_of_them_again(shared, engine, seen):
    before, counts = torch.get_num_threads(), []
    torch.set_num_threads(2)
    try:
        sampler = hasten.build(shared(), Plan(steps=2, engine=engine))
        sampler.sample(5, watch=lambda *_: counts.append(torch.get_num_threads()))
        assert counts == [seen, seen]
        assert torch.get_num_threads() == 2
        with pytest.raises(ZeroDivisionError):
            sampler.sample(5, watch=lambda *_: 1 / 0)
        assert torch.get_num_threads() == 2
        if isinstance(sampler.net, Static):
            assert sampler.net.threads == 2
    finally:
        torch.set_num_threads(before)


def test_a_start_that_runs_a_network_keeps_torchs_threads(shared):
    before, counts = torch.get_num_threads(), []

    def make(noise, condition):
        counts.append(torch.get_num_threads())
        return noise.clamp(0, 1)

    offer("counting", make)
    torch.set_num_threads(2)
    try:
        start = "generator(source='offered:counting', ratio=1.0)"
        hasten.build(shared(), Plan(steps=2, engine="openvino", start=start)).sample(5)
        assert counts == [2]
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("engine", "labels"),
    [
        pytest.param("onnxruntime", 3, marks=pytest.mark.slow),
        pytest.param("onnxruntime", None, marks=pytest.mark.slow),
        pytest.param("openvino", 3, marks=pytest.mark.slow),
    ],
)
def test_a_new_build_takes_weights_that_were_changed_in_place(engine, labels, noise):
    """With labels, what is told of the times is computed ahead, from the weights as well."""
    model, plan = make_tiny_model(labels=labels), Plan(steps=2, engine=engine)
    hasten.build(model, plan).sample(noise=noise)
    with torch.no_grad():
        for parameter in model.net.parameters():
            parameter.mul_(0.5)
    wanted = hasten.build(model, plan.model_copy(update={"engine": "eager"})).sample(noise=noise)
    got = hasten.build(model, plan).sample(noise=noise)
    assert (got - wanted).abs().max() < 1e-3


def test_a_network_is_exported_again_once_its_weights_were_changed_in_place(monkeypatch):
    made = []
    monkeypatch.setattr(graph, "_export", lambda *of: made.append(of))
    model = make_tiny_model()
    flat, inputs = SimpleNamespace(structure=SimpleNamespace(key=())), [torch.zeros(1, 1, 8, 8)]
    first = [graph.onnx_file(model, flat, inputs) for _ in range(2)]
    with torch.no_grad():
        next(model.net.parameters()).mul_(0.5)
    again = [graph.onnx_file(model, flat, inputs) for _ in range(2)]
    assert first[0] == first[1] != again[0] == again[1]
    assert len(made) == 2


def test_a_network_whose_times_cannot_be_computed_ahead_is_let_go():
    model = hasten.load(Told(), schedule="ddpm", prediction="epsilon", shape=(1, 8, 8))
    for _ in range(2):
        with pytest.raises(UserError, match="cannot compute ahead"):
            conditioning_cache(model.net)
    gone = weakref.ref(model.net)
    del model
    gc.collect()
    assert gone() is None


class Told(torch.nn.Module):
    """Hears of the time in a way that nobody knows."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Conv2d(1, 1, 3, padding=1)

    def forward(self, x: torch.Tensor, t: torch.Tensor, condition: object = None) -> torch.Tensor:
        return self.layer(x) * t.view(-1, 1, 1, 1) / 1000


class Texts(torch.nn.Module):
    """Reads a text of any length."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(4, 1)

    def forward(self, x: torch.Tensor, t: torch.Tensor, condition: Condition) -> torch.Tensor:
        words = self.layer(condition.branches["cond"]["text"].tensor).mean(1)
        return x * words.view(-1, 1, 1, 1) + t.view(-1, 1, 1, 1) / 1000


def test_texts_of_other_lengths_have_graphs_of_their_own():
    model = hasten.load(Texts(), schedule="ddpm", prediction="epsilon", shape=(1, 8, 8))
    exact, exported = (prepare(model, Plan(engine=name)) for name in ("eager", "onnxruntime"))
    x, t = torch.randn(2, 1, 8, 8), torch.full((2,), 500.0)
    for length in (5, 7, 5):
        text = PerSample(torch.randn(2, length, 4))
        condition = Condition(2, {"cond": {"text": text}})
        assert (exported(x, t, condition) - exact(x, t, condition)).abs().max() < 1e-5
