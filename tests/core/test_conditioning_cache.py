"""What the time says to a network, computed ahead: the same answers, and exact times."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import diffusers
import pytest
import torch
from torch import nn

import hasten
from conftest import tiny_attentive, tiny_unet
from hasten.adapters.families import Network
from hasten.adapters.prompted import Prompted
from hasten.core.conditioning_cache import AtTimes, at_times, conditioning_cache
from hasten.core.engine import engines
from hasten.core.errors import UserError
from hasten.core.model import Model

TIMES = torch.tensor([3.0, 363.4, 999.0, 363.4])
LABELS = torch.tensor([0, 1, 2, 0])


def conditional_unet(**options: Any) -> nn.Module:
    torch.manual_seed(0)
    return diffusers.UNet2DConditionModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=8,
        attention_head_dim=2,
        norm_num_groups=4,
        **options,
    )


def dit() -> nn.Module:
    torch.manual_seed(0)
    return diffusers.DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=4,
        in_channels=1,
        num_layers=3,
        sample_size=8,
        patch_size=2,
        num_embeds_ada_norm=2,
        norm_num_groups=4,
    )


def prompted(**options: Any) -> Network:
    return Network(Prompted(conditional_unet(**options), torch.randn(3, 5, 8)))


NETS = {
    "U-Net": lambda: Network(tiny_unet()),
    "U-Net with labels": lambda: Network(tiny_unet(labels=2)),
    "U-Net with attention": lambda: tiny_attentive(),
    "U-Net with scale and shift": lambda: Network(
        tiny_unet(labels=2, resnet_time_scale_shift="scale_shift")
    ),
    "conditional U-Net": lambda: prompted(),
    "conditional U-Net, activated once": lambda: prompted(time_embedding_act_fn="silu"),
    "DiT": lambda: Network(dit()),
}


def noisier(net: nn.Module) -> nn.Module:
    """``net`` frozen, with weights large enough that time and label matter to its answers."""
    with torch.no_grad():
        for value in net.parameters():
            value.add_(0.1 * torch.randn(value.shape))
    return net.eval().requires_grad_(False)


def labels_of(name: str) -> torch.Tensor | None:
    return None if name == "U-Net" else LABELS


@pytest.mark.parametrize("name", NETS)
def test_a_network_answers_as_before_with_its_conditioning_computed_ahead(name):
    net, condition = noisier(NETS[name]()), labels_of(name)
    before = copy.deepcopy(net.state_dict())
    without, rows, takes_label = conditioning_cache(net)
    assert conditioning_cache(net)[0] is without
    passed = condition if takes_label else None
    x = torch.randn(4, 1, 8, 8)
    with torch.no_grad():
        wanted = net(x, TIMES, condition)
        assert (without(x, rows(TIMES, condition), passed) - wanted).abs().max() < 1e-5
        one = torch.full((4,), 363.4)
        got, wanted_at_one = without(x, rows(one, condition), passed), net(x, one, condition)
        assert (got - wanted_at_one).abs().max() < 1e-5
        # Time and label matter, so that equality says something.
        assert (wanted - wanted_at_one)[0].abs().max() > 1e-3
        if condition is not None:
            assert (net(x, TIMES, condition.flip(0)) - wanted).abs().max() > 1e-3
    after = net.state_dict()
    assert all(torch.equal(value, before[key]) for key, value in after.items())


@pytest.mark.parametrize("name", NETS)
def test_a_network_at_few_times_answers_as_the_whole_one_there(name):
    net, condition = noisier(NETS[name]()), labels_of(name)
    few = at_times(net, [3.0, 363.4, 999.0], always=True)
    assert isinstance(few, AtTimes)
    x = torch.randn(4, 1, 8, 8)
    with torch.no_grad():
        assert (few(x, TIMES, condition) - net(x, TIMES, condition)).abs().max() < 1e-5


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *itertools.product(["U-Net with labels", "conditional U-Net"], ["deep", "encoder"]),
        *itertools.product(["DiT"], ["blocks", "attention"]),
    ],
)
def test_a_network_that_keeps_features_has_its_conditioning_computed_ahead(name, kind):
    where = {"deep": {"branch": 0}, "blocks": {"first": 1, "last": 1}}.get(kind, {})
    cut = noisier(NETS[name]()).split(kind, **where)
    without, rows, takes_label = conditioning_cache(cut)
    passed = LABELS if takes_label else None
    x = torch.randn(4, 1, 8, 8)
    with torch.no_grad():
        answer, *kept = cut(x, TIMES, LABELS)
        mine, *mine_kept = without(x, rows(TIMES, LABELS), passed)
        later = TIMES - 1.5
        part = without(2 * x, rows(later, LABELS), passed, *kept)
        assert (mine - answer).abs().max() < 1e-5
        assert all((a - b).abs().max() < 1e-5 for a, b in zip(mine_kept, kept, strict=True))
        assert (part - cut(2 * x, later, LABELS, *kept)).abs().max() < 1e-5


@pytest.mark.parametrize("seed", range(3))
def test_a_row_does_not_depend_on_what_else_was_asked(seed, monkeypatch):
    """Also where only a few labels are computed together."""
    monkeypatch.setattr("hasten.core.conditioning_cache.PAGE", 500)
    net = noisier(NETS["DiT"]())
    order = torch.randperm(4, generator=torch.Generator().manual_seed(seed))
    rows = [conditioning_cache(copy.deepcopy(net))[1] for _ in range(2)]
    together = rows[0](TIMES[order], LABELS[order])
    alone = [rows[1](TIMES[i : i + 1], LABELS[i : i + 1]) for i in range(4)]
    assert torch.equal(together, torch.cat(alone)[order])


def test_a_table_that_would_not_fit_is_refused_with_its_size(monkeypatch):
    monkeypatch.setattr("hasten.core.conditioning_cache.LARGEST", 1000)
    with pytest.raises(UserError, match=r"3 times and 3 labels .* fewer evaluations"):
        at_times(noisier(NETS["DiT"]()), [1.0, 2.0, 3.0], always=True)


class Bare(nn.Module):
    """A network that says nothing of itself, and reads the time."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3, padding=1)
        self.last = nn.Conv2d(4, 1, 3, padding=1)

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return self.last(self.first(x) * (t / 1000)[:, None, None, None])


UNABLE = {
    "plain": (lambda: Network(Bare()), "plain module"),
    "fourier": (
        lambda: Network(tiny_unet(time_embedding_type="fourier")),
        "time_embedding_type='fourier'",
    ),
    "labels too": (lambda: prompted(num_class_embeds=3), "num_class_embeds=3"),
}


@pytest.mark.parametrize("name", UNABLE)
def test_a_network_that_reads_the_time_otherwise_says_how(name):
    make, words = UNABLE[name]
    with pytest.raises(UserError, match=words) as caught:
        conditioning_cache(make())
    assert "\n" not in str(caught.value)


def model_of(net: nn.Module, labels: int | None) -> Model:
    kind = {"schedule": hasten.schedule("ddpm"), "prediction": hasten.prediction("epsilon")}
    return Model(net=net, shape=(1, 8, 8), labels=labels, null_label=None, **kind)


def openvino(dtype: str) -> Any:
    pytest.importorskip("openvino")
    if dtype not in engines["openvino"]().here():
        pytest.skip(f"no {dtype} here")
    return engines["openvino"]()


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("U-Net with labels", marks=pytest.mark.slow),
        pytest.param("conditional U-Net", marks=pytest.mark.slow),
        "DiT",
    ],
)
@pytest.mark.slow
def test_openvino_in_bfloat16_hears_363_4_and_not_364(name):
    """What an answer at 363.4 differs from that at 364 by is all of a waved time embedding, so the
    network is made to depend on the time strongly; bfloat16's own rounding is far smaller."""
    net = noisier(NETS[name]())
    prepared = openvino("bfloat16").prepare(model_of(net, 3), "bfloat16")
    assert prepared.precision == "bfloat16"
    seen = prepared._rows(torch.tensor([363.4]), LABELS[:1])
    exact = conditioning_cache(net)[1](torch.tensor([363.4]), LABELS[:1])
    rounded = conditioning_cache(net)[1](torch.tensor([364.0]), LABELS[:1])
    assert torch.equal(seen, exact)
    assert not torch.equal(rounded, exact)
    x = torch.randn(4, 1, 8, 8)
    with torch.no_grad():
        wanted, answer = net(x, TIMES, LABELS), prepared(x, TIMES, LABELS)
    # Two bits are lost on top of bfloat16's 8 in a network of a few layers.
    assert (answer - wanted).square().mean().sqrt() < 2**-6 * wanted.square().mean().sqrt()


@pytest.mark.slow
def test_openvino_in_bfloat16_says_where_it_rounds_the_time():
    engine, model = openvino("bfloat16"), model_of(Network(Bare().eval()), None)
    prepared = engine.prepare(model, "bfloat16")
    assert prepared.precision.startswith("bfloat16, times as well: ")
    assert "plain module" in prepared.precision
    assert prepared(torch.randn(2, 1, 8, 8), torch.tensor([3.0, 363.4])).shape == (2, 1, 8, 8)
    assert engine.prepare(model, "float32").precision == "float32"
