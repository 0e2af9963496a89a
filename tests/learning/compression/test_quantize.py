"""Few bits: integers as exact as they can be, ranges that follow the step, real runtimes."""

from __future__ import annotations

import copy
import dataclasses
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import nn

import hasten
from hasten import Plan, UserError
from hasten.core.conditioning_cache import AtTimes, at_times, conditioning_cache, numbers
from hasten.core.random_streams import generator
from hasten.learning.compression.gptq import fits, products, rounded
from hasten.learning.compression.quantize import _range, learn_quantize
from hasten.levers.quantize import Quantization, Quantize, layers
from hasten.levers.quantized_layer import Bits, QuantizedLayer, fitted, joined, weight_scale
from hasten.sampling import engines_here, prepare

BASE = Plan(solver="dpmpp(order=2)", grid="uniform", steps=4)


def quantized(file: Path, **fields: object) -> Plan:
    """The plan in the integers of ``file``."""
    return BASE.model_copy(update=fields).with_lever(Quantize(file=str(file)))


@pytest.fixture
def model(tiny_model):
    return tiny_model(labels=2)


def test_bits_are_read_and_refused():
    assert str(Bits.parse("W4A8")) == "w4a8"
    for text in ("8", "w8", "w9a8", "w8a40", "a8w8"):
        with pytest.raises(UserError, match="bits"):
            Bits.parse(text)


@pytest.mark.parametrize("kind", ["conv", "linear"])
def test_a_layer_in_eight_bits_is_as_near_as_its_steps(kind):
    draws = generator(1)
    layer = nn.Conv2d(4, 6, 3, padding=1, stride=2) if kind == "conv" else nn.Linear(8, 5)
    shape = (3, 4, 8, 8) if kind == "conv" else (3, 7, 8)
    x = torch.randn(shape, generator=draws).clamp(-2, 3)
    with torch.no_grad():
        wanted = layer(x)
        for bits, least in ((Bits(8, 8), 35), (Bits(8, 16), 40), (Bits(4, 8), 15)):
            answer = QuantizedLayer(layer, bits, (-2.0, 3.0))(x)
            error = 20 * torch.log10(wanted.std() / (answer - wanted).std())
            assert error > least, (bits, error)
        # Nothing but rounding: integers times steps are given back exactly.
        layer.weight.copy_((layer.weight / layer.weight.abs().max() * 127).round())
        flat = layer.weight.flatten(1)
        flat[:, 0] = 127  # every channel's scale is 1
        whole = torch.randint(-100, 155, shape, generator=draws).float()
        exact = QuantizedLayer(layer, Bits(8, 8), (-100.0, 155.0))(whole)
        assert torch.allclose(exact, layer(whole), rtol=1e-5, atol=0.05)


def test_a_cut_layer_is_the_sum_of_its_halves_with_scales_of_their_own():
    layer = nn.Conv2d(6, 4, 1)
    x = torch.cat([torch.rand(2, 4, 5, 5) * 100, torch.rand(2, 2, 5, 5)], dim=1)
    with torch.no_grad():
        layer.weight[:, :4] *= 0.01  # both halves matter in the answer
        wanted = layer(x)
        one = QuantizedLayer(layer, Bits(), (0.0, 100.0))(x)
        two = QuantizedLayer(layer, Bits(), (0.0, 100.0), cut=4, gain=100.0)(x)
    assert (two - wanted).abs().max() < 0.2 * (one - wanted).abs().max()


def test_rows_of_ranges_are_stretched_to_one():
    rows = torch.tensor([[-0.3, 6.0], [-0.3, 1.0], [-2.0, 4.0], [0.0, 3.0]])
    (low, high), factors = fitted(rows)
    wide = rows * factors[:, None]
    assert low <= wide.min() + 1e-6
    assert wide.max() <= high + 1e-6
    # Each touches the range at one end at least, and none is made smaller.
    touches = torch.minimum(high - wide[:, 1], wide[:, 0] - low)
    assert touches.abs().max() < 1e-5
    assert factors.min() >= 1 - 1e-6
    (low, high), factors = fitted(torch.tensor([[0.0, 6.0], [0.0, 1.5], [0.0, 0.0]]))
    assert (low, high) == (0.0, 6.0)
    assert torch.equal(factors[:2], torch.tensor([1.0, 4.0]))
    assert fitted(torch.zeros(2, 2))[1].isfinite().all()
    halves = torch.tensor([[[-1.0, 2.0], [-0.5, 0.1]], [[-1.0, 1.0], [0.0, 0.4]]])
    assert torch.equal(joined(halves, 10.0), torch.tensor([[-5.0, 2.0], [-1.0, 4.0]]))
    assert torch.equal(joined(halves[:, :1], 10.0), halves[:, 0])


@pytest.mark.parametrize("kind", ["conv", "linear"])
def test_a_factor_stretches_what_is_rounded_and_nothing_else(kind):
    layer = nn.Conv2d(3, 5, 3) if kind == "conv" else nn.Linear(6, 5)
    x = torch.rand((2, 3, 6, 6) if kind == "conv" else (2, 7, 6), generator=generator(4))
    x[1] *= 0.01
    factor = nn.Module()
    factor.forward = lambda given: torch.tensor([[1.0], [100.0]])  # type: ignore[method-assign]
    with torch.no_grad():
        wanted = layer(x)
        one = QuantizedLayer(layer, Bits(), (0.0, 1.0))(x)
        two = QuantizedLayer(layer, Bits(), (0.0, 1.0), factor=factor)(x)
    assert torch.equal(one[0], two[0])
    error = (one[1] - wanted[1]).square().mean() / (two[1] - wanted[1]).square().mean()
    assert error > 50


def test_first_last_time_and_label_layers_are_kept(model):
    names = [name for name, _ in layers(model.net)]
    assert names
    for kept in ("conv_in", "conv_out", "time_embedding", "time_emb_proj", "class_embedding"):
        assert not any(kept in name for name in names)


def test_skip_connections_are_cut_where_they_are_joined(model):
    held = learn_quantize(model, BASE, rows="steps", n=4)
    shortcuts = [name for name in held.bits if "up_blocks" in name and "shortcut" in name]
    assert shortcuts
    assert set(held.cuts) == set(shortcuts)
    assert all(held.ranges[name].shape == (4, 2, 2) for name in shortcuts)


def ode_error(model, held, tmp_path, plan=BASE) -> float:
    held.write(tmp_path / "q.safetensors")
    noise = torch.randn(8, *model.shape, generator=generator(3))
    condition = [i % 2 for i in range(8)]
    named = plan.with_lever(Quantize(file=str(tmp_path / "q.safetensors")))
    pictures = [
        hasten.build(model, one).sample(noise=noise, condition=condition, raw=True)
        for one in (plan, named)
    ]
    return float((pictures[0] - pictures[1]).square().mean().sqrt())


@pytest.mark.slow
def test_more_bits_and_more_rows_have_less_ode_error(model, tmp_path):
    plain = {"n": 16, "correct": False}
    by = {
        bits: ode_error(model, learn_quantize(model, BASE, bits=bits, **plain), tmp_path)
        for bits in ("w8a16", "w8a8", "w4a8")
    }
    assert by["w8a8"] < 0.6 * by["w4a8"]
    assert by["w8a16"] < 1.05 * by["w8a8"]
    static = learn_quantize(model, BASE, rows="static", **plain)
    assert static.rows == 1
    groups = learn_quantize(model, BASE, rows=2, **plain)
    assert groups.rows == 2
    assert sorted(groups.groups) == list(groups.groups)


class Loud(nn.Module):
    """A network whose layer sees the same at every time, or more and more with the time."""

    def __init__(self, grows: float) -> None:
        super().__init__()
        self.body, self.grows = nn.Conv2d(1, 1, 3, padding=1), grows

    def forward(self, x: torch.Tensor, t: torch.Tensor, condition: object = None) -> torch.Tensor:
        loud = (self.grows * t / 1000).exp().view(-1, 1, 1, 1)
        return self.body(x / x.std() * loud) / loud


def test_a_row_a_step_is_for_layers_that_see_other_widths_at_other_times(tiny_model):
    model = tiny_model()
    alike, apart = (dataclasses.replace(model, net=Loud(grows)) for grows in (0.0, 3.0))
    assert learn_quantize(alike, BASE, n=4).rows == 1
    assert learn_quantize(apart, BASE, n=4).rows == BASE.steps
    assert learn_quantize(apart, BASE, bits="w8a16", n=4).rows == 1
    assert learn_quantize(alike, BASE, bits="w8a4", n=4).rows == BASE.steps
    assert learn_quantize(alike, BASE, rows="steps", n=4).rows == BASE.steps


@pytest.mark.parametrize(
    "engine",
    [
        "eager",
        pytest.param("onnxruntime", marks=pytest.mark.slow),
        pytest.param("openvino", marks=pytest.mark.slow),
    ],
)
def test_a_row_a_step_is_as_near_as_a_network_a_step(model, tmp_path, engine):
    if engine != "eager":
        pytest.importorskip(engine)
    file = tmp_path / "q.safetensors"
    held = learn_quantize(model, BASE, file, bits="w8a6", rows="steps", n=16, correct=False)
    chosen = quantized(file, engine=engine)
    x, condition = torch.randn(8, *model.shape, generator=generator(3)), torch.arange(8) % 2
    net, apart = prepare(model, chosen), []
    for number, time in enumerate(held.times):
        t = torch.full((8,), time)
        ranges = {name: rows[number : number + 1] for name, rows in held.ranges.items()}
        alone = dataclasses.replace(
            held, times=(time,), groups=(0,), ranges=ranges, scale=held.scale[:1]
        )
        with torch.no_grad():
            wanted, one = model.net(x, t, condition), alone.network(model.net)(x, t, condition)
            apart.append([float((y - wanted).square().mean()) for y in (net(x, t, condition), one)])
    assert sum(mine for mine, _ in apart) < 1.2 * sum(other for _, other in apart)


def test_a_network_of_several_rows_holds_its_weights_once(model, tmp_path):
    sizes = {}
    for rows in ("static", "steps"):
        file = tmp_path / f"{rows}.safetensors"
        learn_quantize(model, BASE, file, rows=rows, n=4)
        sizes[rows] = prepare(model, quantized(file)).weights_mb
    assert sizes["steps"] < 1.5 * sizes["static"]


def test_threads_do_not_tell_each_other_their_times(model):
    held = learn_quantize(model, BASE, rows="steps", n=8, bits="w8a4")
    net, x = held.network(model.net), torch.randn(1, *model.shape, generator=generator(3))
    condition = torch.zeros(1, dtype=torch.long)

    def answer(time: float) -> torch.Tensor:
        with torch.no_grad():
            return net(x, torch.tensor([time]), condition)

    wanted = [answer(time) for time in held.times] * 8
    with ThreadPoolExecutor(4) as pool:
        assert all(map(torch.equal, pool.map(answer, list(held.times) * 8), wanted))


def test_a_network_in_few_bits_is_where_the_whole_one_is(model):
    held = learn_quantize(model, BASE, rows="steps", n=2)
    elsewhere = copy.deepcopy(model.net).to("meta")
    made = held.network(elsewhere), held.alone(elsewhere), at_times(elsewhere, held.times, True)
    assert isinstance(made[2], AtTimes)
    for net in made:
        assert {one.device.type for one in (*net.parameters(), *net.buffers())} == {"meta"}


@pytest.mark.parametrize(
    "layer",
    [nn.Conv2d(5, 4, 3, padding=1), nn.Conv2d(5, 4, 3, stride=2, padding=2, dilation=2)],
    ids=["plain", "wide"],
)
def test_weights_make_up_for_the_rounding_of_each_other(layer):
    few = Bits(4, 16)
    x = torch.randn(8, 1, 12, 12, generator=generator(2))
    x = x * torch.linspace(1, 2, 5).view(1, -1, 1, 1) + 0.3 * torch.randn(8, 5, 12, 12)
    scale, most = weight_scale(layer.weight.detach(), 4)
    whole = rounded(layer.weight.detach(), scale, most, products(layer, x))
    assert whole.dtype == torch.int8
    assert whole.abs().max() <= most
    with torch.no_grad():
        wanted = layer(x)
        near = QuantizedLayer(layer, few, (0.0, 1.0))(x)
        mine = QuantizedLayer(layer, few, (0.0, 1.0), whole=whole)(x)
    assert (mine - wanted).square().mean() < 0.5 * (near - wanted).square().mean()


def test_weights_whose_inputs_have_nothing_in_common_are_rounded_to_the_nearest():
    layer = nn.Linear(6, 3)
    scale, most = weight_scale(layer.weight.detach(), 4)
    alone = torch.diag(torch.rand(6, generator=generator(2)) + 0.5)
    whole = rounded(layer.weight.detach(), scale, most, alone)
    assert torch.equal(whole.float(), (layer.weight / scale[:, None]).round())


def test_layers_of_groups_and_of_very_many_inputs_are_rounded_to_the_nearest():
    assert fits(nn.Conv2d(4, 4, 3))
    assert not fits(nn.Conv2d(4, 4, 3, groups=2))
    assert not fits(nn.Linear(5000, 2))


@pytest.mark.slow
def test_rounding_by_what_layers_see_is_nearer_to_the_network(tmp_path):
    model = hasten.load("builtin:mnist")
    options = {"bits": "w4a16", "n": 16, "rows": "static", "correct": False}
    ways = ("gptq", "nearest")
    held = {way: learn_quantize(model, BASE, rounding=way, **options) for way in ways}
    assert set(held["gptq"].whole) == set(held["gptq"].bits)
    assert not held["nearest"].whole
    moved = {way: ode_error(model, one, tmp_path) for way, one in held.items()}
    assert moved["gptq"] < 0.5 * moved["nearest"]
    with pytest.raises(UserError, match="rounding"):
        learn_quantize(model, BASE, rounding="up")


def test_fewer_bits_of_activations_cut_off_what_is_far():
    """One far number must not take the steps from all the others."""
    x = torch.cat([torch.linspace(-1, 1, 1000), torch.tensor([9.0])])
    few, many = (_range(x, Bits(8, bits)) for bits in (3, 8))
    assert few[1] < 8 < many[1]
    assert float(few[0]) == pytest.approx(float(few[1]) / -9)


def test_the_correction_brings_the_mean_answer_back(model):
    held = learn_quantize(model, BASE, bits="w3a6", n=16, correct=False)
    mended = learn_quantize(model, BASE, bits="w3a6", n=16)
    x, t = torch.randn(16, *model.shape, generator=generator(9)), held.times[0]
    condition = torch.arange(16) % 2
    told = torch.full((16,), t)
    with torch.no_grad():
        wanted = model.net(x, told, condition)
        rough, fine = (one.network(model.net)(x, told, condition) for one in (held, mended))
    assert (fine - wanted).square().mean() < (rough - wanted).square().mean()


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_runtimes_compute_what_the_simulation_says(model, tmp_path, engine):
    pytest.importorskip(engine)
    file = tmp_path / "q.safetensors"
    learn_quantize(model, BASE, file, n=8)
    noise = torch.randn(2, *model.shape, generator=generator(3))
    plans = [quantized(file, engine=name) for name in ("eager", engine)]
    a, b = (hasten.build(model, one).sample(noise=noise, condition=1, raw=True) for one in plans)
    plain = hasten.build(model, BASE).sample(noise=noise, condition=1, raw=True)
    # A value on the border of two steps may fall to either side; that is all.
    assert (a - b).square().mean() < 0.3 * (a - plain).square().mean()


@pytest.mark.slow
def test_the_rest_may_run_in_bfloat16_where_the_runtime_can(model, tmp_path):
    pytest.importorskip("openvino")
    if "bfloat16" not in engines_here()["openvino"]:
        pytest.skip("no bfloat16 here")
    file = tmp_path / "q.safetensors"
    learn_quantize(model, BASE, file, n=8)
    noise = torch.randn(4, *model.shape, generator=generator(3))

    def made(**fields: object) -> torch.Tensor:
        plan = BASE.model_copy(update=fields)
        return hasten.build(model, plan).sample(noise=noise, condition=1, raw=True)

    plain, few = made(), {"levers": quantized(file).levers}
    there = {"engine": "openvino", "dtype": "bfloat16"}
    apart = [(made(**f) - plain).square().mean() for f in (few, there, {**few, **there})]
    # The two errors add, in squares, and no third comes with them.
    assert apart[2] < 2 * (apart[0] + apart[1])
    with pytest.raises(UserError, match="set dtype=float32"):
        made(**few, engine="eager", dtype="bfloat16")


def test_other_weights_other_steps_and_other_files_are_refused(model, tiny_model, tmp_path):
    file = tmp_path / "q.safetensors"
    learn_quantize(model, BASE, file, n=4)
    named = quantized(file)
    other = hasten.build(model, named.model_copy(update={"steps": 7}))
    with pytest.raises(UserError, match="calibrate on this plan"):
        other.sample(1, condition=0)
    twin = tiny_model(labels=2)
    with torch.no_grad():
        next(twin.net.parameters()).add_(1.0)
    with pytest.raises(UserError, match="other weights"):
        hasten.build(twin, named)
    (tmp_path / "bad.safetensors").write_bytes(b"nothing")
    with pytest.raises(UserError, match="holds no quantization"):
        hasten.build(model, quantized(tmp_path / "bad.safetensors"))
    with pytest.raises(UserError, match="drop one"):
        named.with_lever("deep(branch=0)")
    with pytest.raises(UserError, match="dtype"):
        hasten.build(model, named.model_copy(update={"dtype": "bfloat16"}))


def test_the_file_holds_what_was_learned(model, tmp_path):
    held = learn_quantize(model, BASE, tmp_path / "q.safetensors", n=4)
    again = Quantization.read(str(tmp_path / "q.safetensors"))
    assert (again.times, again.groups, again.bits) == (held.times, held.groups, held.bits)
    assert all(torch.equal(again.ranges[name], held.ranges[name]) for name in held.ranges)
    assert again.gains == held.gains
    assert set(again.whole) == set(held.whole) == set(held.bits)
    assert all(torch.equal(again.whole[name], held.whole[name]) for name in held.whole)
    assert not any(isinstance(part, QuantizedLayer) for part in model.net.modules())


def test_pictures_at_different_times_get_their_own_ranges(model, tmp_path):
    """A parallel executor asks at several times at once."""
    file = tmp_path / "q.safetensors"
    learn_quantize(model, BASE, file, n=8)
    named = quantized(file)
    noise = torch.randn(2, *model.shape, generator=generator(3))
    one = hasten.build(model, named).sample(noise=noise, condition=1, raw=True)
    side = named.model_copy(update={"executor": "picard(tolerance=1e-6)"})
    two = hasten.build(model, side).sample(noise=noise, condition=1, raw=True)
    assert (one - two).abs().max() < 1e-3


def test_what_the_times_tell_is_worked_out_ahead_where_that_is_less(model, tmp_path):
    held = learn_quantize(model, BASE, rows="static", n=8)
    whole, alone = held.network(model.net), held.alone(model.net)
    assert numbers(alone) <= numbers(whole)
    assert isinstance(at_times(whole, held.times[:1]), AtTimes)
    assert at_times(whole, held.times * 10_000) is whole
    known = AtTimes(*conditioning_cache(whole)[:2], held.times)
    x, t = torch.randn(3, *model.shape), torch.tensor(held.times)[[0, 1, 0]]
    condition = None if model.labels is None else torch.tensor([0, 1, 0])
    with torch.no_grad():
        assert (known(x, t, condition) - whole(x, t, condition)).abs().max() < 1e-5
    net, rows, _ = conditioning_cache(known)
    assert torch.equal(net(x, rows(t, condition)), known(x, t, condition))


@pytest.mark.slow
def test_a_mix_with_floats_leaves_the_layers_that_matter_most(model, tmp_path):
    bold = learn_quantize(model, BASE, bits="w4a4,float", ode_error=1e3, n=8, correct=False)
    assert set(bold.bits) == set(bold.ranges) == set(bold.sensitivities)
    most = sum(moved**2 for moved in bold.sensitivities.values()) ** 0.5
    file = tmp_path / "mixed.safetensors"
    mild = learn_quantize(model, BASE, file, bits="w4a4,float", ode_error=most / 2, n=8)
    assert 0 < len(mild.bits) < len(bold.bits)
    sizes = {name: model.net.get_submodule(name).weight.numel() for name in mild.ranges}
    price = {name: mild.sensitivities[name] ** 2 / sizes[name] for name in mild.ranges}
    assert max(price[n] for n in mild.bits) <= min(price[n] for n in price if n not in mild.bits)
    assert hasten.build(model, quantized(file)).sample(2).isfinite().all()
    with pytest.raises(UserError, match="no layer can be in w4a4"):
        learn_quantize(model, BASE, bits="w4a4,float", ode_error=1e-7, n=8)


@pytest.mark.slow
def test_a_mix_gives_the_fewer_bits_to_the_layers_that_matter_least(model, tmp_path):
    bold = learn_quantize(model, BASE, bits="w3a8,w8a8", ode_error=1e3, n=8, correct=False)
    assert {str(bits) for bits in bold.bits.values()} == {"w3a8"}
    most = ode_error(model, bold, tmp_path)
    mild = learn_quantize(model, BASE, bits="w3a8,w8a8", ode_error=most / 2, n=8, correct=False)
    kinds = {str(bits) for bits in mild.bits.values()}
    assert kinds == {"w3a8", "w8a8"}
    for name, whole in mild.whole.items():  # integers of their own bits
        assert (whole.abs().max() <= 3) == (str(mild.bits[name]) == "w3a8")
    fewer = [name for name, bits in mild.bits.items() if str(bits) == "w3a8"]
    net = model.net

    def price(name: str) -> float:
        return mild.sensitivities[name] ** 2 / net.get_submodule(name).weight.numel()

    assert max(map(price, fewer)) <= min(price(n) for n in mild.bits if n not in fewer)
    assert ode_error(model, mild, tmp_path) < 0.75 * most
    again = Quantization.read(str(tmp_path / "q.safetensors"))
    assert again.sensitivities == pytest.approx(mild.sensitivities)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"bits": "w4a8,w8a8"}, "both or neither"),
        ({"bits": "w8a8", "ode_error": 0.1}, "both or neither"),
        ({"bits": "w4a8,w8a8", "ode_error": -1.0}, "ode_error"),
        ({"bits": "w4a8,w6a6,w8a8", "ode_error": 0.1}, "one, or two"),
    ],
)
def test_a_mix_that_is_none_is_refused(model, changes, words):
    with pytest.raises(UserError, match=words):
        learn_quantize(model, BASE, n=2, **changes)


@pytest.mark.parametrize("bits", ["w8a9", "w8a12", "w8a15", "w9a8", "w1a8"])
def test_bits_that_no_layer_can_be_rounded_to_are_refused(bits):
    with pytest.raises(UserError, match="bits of"):
        Bits.parse(bits)
    assert Bits.parse("w8a16").activations == 16
