"""Pruning: narrower stock networks, made of what matters, that recover by imitation."""

from __future__ import annotations

import dataclasses

import pytest
import torch

import hasten
from conftest import tiny_attentive
from hasten.adapters.families import Network
from hasten.core.errors import UserError
from hasten.core.model import Model
from hasten.core.noise_schedule import ddpm_schedule
from hasten.core.plan import Plan
from hasten.core.prediction import prediction
from hasten.core.random_streams import generator
from hasten.learning.compression import pruning
from hasten.learning.compression.pruning import pruned
from hasten.learning.students.knowledge_distillation import block_outputs
from hasten.learning.students.student import learn_student
from hasten.levers.student import Student
from hasten.measuring.macs import network_macs
from student_recipes import recipe

KIND = {"schedule": ddpm_schedule(), "prediction": prediction("epsilon"), "shape": (1, 8, 8)}


@dataclasses.dataclass(frozen=True)
class Flat:
    """Even pictures of two brightnesses."""

    labels = torch.arange(64) % 2

    def __len__(self) -> int:
        return 64

    def at(self, index, key, device):
        values = torch.tensor([float(i % 2) for i in index]) - 0.5
        return values.view(-1, 1, 1, 1).expand(-1, 1, 8, 8).contiguous()


def unet() -> Network:
    return tiny_attentive(widths=(16, 32), head=8)


def model_of(net: Network) -> Model:
    return Model(net=net.eval(), labels=2, null_label=2, name="tiny", **KIND)


def test_a_pruned_u_net_is_a_narrower_stock_one():
    whole = model_of(unet())
    before = {name: value.clone() for name, value in whole.net.state_dict().items()}
    less = pruned(whole, 0.4, Flat())
    config = less.net.module.config
    assert config.block_out_channels != [16, 32]
    assert all(width % 4 == 0 for width in config.block_out_channels)
    assert network_macs(less)[0] <= 0.6 * network_macs(whole)[0]
    fresh = type(less.net.module).from_config(config)
    fresh.load_state_dict(less.net.module.state_dict())
    x, t, label = torch.randn(2, 1, 8, 8), torch.tensor([3.0, 700.0]), torch.tensor([0, 2])
    with torch.no_grad():
        assert torch.equal(Network(fresh.eval())(x, t, label), less.net(x, t, label))
    assert all(torch.equal(value, before[name]) for name, value in whole.net.state_dict().items())


@pytest.mark.parametrize("idle", [0, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.slow
def test_the_resolution_that_loses_least_is_made_narrower(idle, monkeypatch):
    """The widths are not all cut by the same share."""

    def lost(worth, narrow, channels):
        return float((16, 32)[1 - idle] - narrow.config.block_out_channels[1 - idle])

    monkeypatch.setattr(pruning, "_lost", lost)
    widths = pruned(model_of(unet()), 0.05, Flat()).net.module.config.block_out_channels
    assert widths[1 - idle] == (16, 32)[1 - idle]
    assert widths[idle] < (16, 32)[idle]


def test_what_is_lost_is_the_importance_of_the_channels_that_go():
    net, whole = unet().module, unet()
    channels = whole.family.narrowing(whole)
    worth = {"conv_in": torch.arange(16.0)}
    assert pruning._lost(worth, net, channels) == 0
    narrow = type(net).from_config({**net.config, "block_out_channels": (12, 32)})
    assert pruning._lost(worth, narrow, channels) == 0 + 1 + 2 + 3


@pytest.mark.slow
def test_resolutions_of_one_width_are_made_narrower_together():
    assert pruning._together([8, 8, 16]) == [(0,), (0, 1), (1,), (2,)]
    net = tiny_attentive(widths=(16, 16), head=8)
    config = pruned(model_of(net), 0.3, Flat()).net.module.config
    assert config.block_out_channels[0] == config.block_out_channels[1] < 16


@pytest.mark.slow
def test_channels_that_do_nothing_are_the_ones_that_go(monkeypatch):
    """Inner channels of residual blocks are silenced, a whole group of the normalisation each."""
    net = unet()
    with torch.no_grad():
        for part in net.module.modules():
            if hasattr(part, "conv1") and hasattr(part, "conv2"):
                width = part.conv1.out_channels
                dead = torch.arange(width) * 4 // width == 1
                part.conv2.weight[:, dead] = 0
    whole = model_of(net)
    real, seen = pruning._least, []

    def least(score, count, together):
        seen.append((score, real(score, count, together)))
        return seen[-1][1]

    monkeypatch.setattr(pruning, "_least", least)
    pruned(whole, 0.3, Flat())
    silent = [(score == 0, chosen) for score, chosen in seen if bool((score == 0).any())]
    assert len(silent) >= 3
    for nothing, chosen in silent:
        dead = set(nothing.nonzero().flatten().tolist())
        assert dead <= set(chosen) or set(chosen) <= dead


@pytest.mark.slow
def test_times_are_told_nearly_as_before():
    whole = model_of(unet())
    less = pruned(whole, 0.4, Flat())
    t = torch.linspace(0, 999, 50)
    with torch.no_grad():
        said = [
            net.time_embedding.linear_1(net.time_proj(t))
            for net in (whole.net.module, less.net.module)
        ]
    assert float((said[0] - said[1]).norm() / said[0].norm()) < 0.7
    fresh = type(less.net.module).from_config(less.net.module.config)
    with torch.no_grad():
        other = fresh.time_embedding.linear_1(fresh.time_proj(t))
    assert float((said[0] - said[1]).norm()) < 0.5 * float((said[0] - other).norm())


def test_a_pruned_transformer_has_fewer_blocks():
    import diffusers

    torch.manual_seed(0)
    net = Network(
        diffusers.DiTTransformer2DModel(
            num_attention_heads=2,
            attention_head_dim=8,
            in_channels=1,
            num_layers=4,
            sample_size=8,
            patch_size=2,
            num_embeds_ada_norm=2,
        )
    )
    with torch.no_grad():  # a block whose gates are shut does nothing
        for part in net.module.transformer_blocks[2].norm1.linear.parameters():
            part.zero_()
    whole = model_of(net)
    less = pruned(whole, 0.2, Flat())
    assert less.net.module.config.num_layers == 3
    x, t, label = torch.randn(2, 1, 8, 8), torch.tensor([3.0, 700.0]), torch.tensor([0, 1])
    with torch.no_grad():
        assert torch.allclose(less.net(x, t, label), whole.net(x, t, label), atol=1e-5)


@pytest.mark.slow
def test_a_pruned_student_recovers_and_serves_every_solver(teacher, data, tmp_path):
    own = {"objective": "knowledge-distillation(features=0.1)", "prune": 0.3, "pictures": 16 * 60}
    made = recipe("knowledge-distillation", data, **own)
    out = learn_student(teacher, made, tmp_path / "pruned", quiet=True)
    student = hasten.load(out)
    assert network_macs(student)[0] < 0.75 * network_macs(teacher)[0]
    plan = Plan(solver="dpmpp(order=2)", grid="log-snr", steps=5).with_lever(
        Student(folder=str(out))
    )
    assert hasten.build(teacher, plan).sample(2, condition=1).isfinite().all()
    assert "pruned" in (out / "README.md").read_text()
    assert student.imitates

    def apart(net: torch.nn.Module) -> float:
        x, t = torch.randn(64, 1, 8, 8, generator=generator(1)), torch.linspace(1, 900, 64)
        label = torch.arange(64) % 2
        with torch.no_grad():
            return float((net(x, t, label) - teacher.net(x, t, label)).square().mean())

    still = recipe(
        "knowledge-distillation", data, prune=0.3, optimizer={"rate": 1e-12, "batch": 16}
    )
    raw = hasten.load(learn_student(teacher, still, tmp_path / "raw", quiet=True))
    assert apart(student.net) < 0.7 * apart(raw.net)


def test_watching_leaves_nothing_behind():
    net = unet()
    with block_outputs(net) as seen:
        net(torch.zeros(1, 1, 8, 8), torch.ones(1), torch.zeros(1, dtype=torch.long))
    assert len(seen) == 5  # two down, the middle, two up
    assert not any(part._forward_hooks for part in net.modules())


@pytest.mark.parametrize(
    ("objective", "changes", "words"),
    [
        ("knowledge-distillation", {"prune": 0.3, "lora": 2}, "prune and lora"),
        ("knowledge-distillation", {"prune": 0.3, "begin": "nowhere"}, "prune and begin"),
        ("shortcut(finest=2)", {"prune": 0.3}, "drop prune"),
        ("knowledge-distillation", {"prune": 0.95}, "smaller share"),
    ],
)
def test_what_cannot_be_pruned_is_refused(objective, changes, words, teacher, data, tmp_path):
    with pytest.raises(UserError, match=words):
        learn_student(teacher, recipe(objective, data, **changes), tmp_path / "s", quiet=True)
    assert not (tmp_path / "s").exists()


def test_a_network_of_another_kind_is_refused():
    net = torch.nn.Conv2d(1, 1, 3, padding=1)
    with pytest.raises(UserError, match="drop prune"):
        pruned(Model(net=net, **KIND), 0.4, Flat())


@pytest.mark.slow
def test_the_command_line_prunes(teacher, data, tmp_path):
    from hasten.cli import main

    out = tmp_path / "pruned"
    base = ["learn", "prune", str(teacher.folder), "--pictures", "128", "--quiet"]
    with pytest.raises(SystemExit) as stop:
        main([*base, "--share", "0.3", "--data", data, "--out", str(out)])
    assert not stop.value.code
    assert network_macs(hasten.load(out))[0] <= 0.7 * network_macs(teacher)[0]
    with pytest.raises(SystemExit) as stop:
        main([*base, "--share", "2", "--out", str(tmp_path / "x")])
    assert stop.value.code == 2
    assert not (tmp_path / "x").exists()
