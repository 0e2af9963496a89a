"""A smaller network at some evaluations: a column of the plan, found by measurement."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch

import hasten
from hasten import Plan, UserError
from hasten.adapters.folder import save_folder
from hasten.core.artifact import digest
from hasten.core.prediction import prediction
from hasten.exporting.bundle import bundle
from hasten.learning.compression.small import learn_narrow
from hasten.measuring.macs import macs

BASE = Plan(solver="ddim", grid="uniform", steps=4)


@pytest.fixture
def model(tiny_model):
    return tiny_model(labels=2)


@pytest.fixture
def small(model, tmp_path) -> str:
    """A student whose answers are a little smaller."""
    net = copy.deepcopy(model.net)
    with torch.no_grad():
        for value in net.module.conv_out.parameters():
            value *= 0.9
    own = {"solver": "ddim", "grid": "uniform", "steps": 4}
    kind = {"net": net, "plans": (own,), "teacher": digest(model), "name": "small", "sha256": ""}
    save_folder(dataclasses.replace(model, **kind), tmp_path / "small")
    return str(tmp_path / "small")


def narrow(small: str, at: str) -> Plan:
    return BASE.model_copy(update={"small": small, "small_at": at})


def test_the_column_says_which_network_runs(model, small):
    noise = torch.randn(3, *model.shape)
    given = {"noise": noise, "cond": [0, 1, 0], "raw": True}
    whole = hasten.build(model, BASE).sample(**given)
    none = hasten.build(model, narrow(small, "(0,0,0,0)")).sample(**given)
    every = hasten.build(model, narrow(small, "(1,1,1,1)")).sample(**given)
    alone = hasten.build(model, BASE.model_copy(update={"student": small})).sample(**given)
    assert torch.equal(none, whole)
    assert torch.equal(every, alone)
    some = hasten.build(model, narrow(small, "(0,1,0,1)"))
    asked = []
    for number, net in enumerate(some.net.nets):
        some.net.nets[number] = lambda x, t, condition, net=net, number=number: (
            asked.append(number),
            net(x, t, condition),
        )[1]
    some.sample(**given)
    assert asked == [0, 1, 0, 1]


@pytest.mark.parametrize("executor", ["picard", "anderson", "early-exit(tolerance=0.001)"])
def test_it_goes_with_executors_that_ask_in_another_order(model, small, executor):
    noise = torch.randn(2, *model.shape)
    plan = narrow(small, "(0,1,0,1)")
    inorder = hasten.build(model, plan).sample(noise=noise, condition=1)
    other = hasten.build(model, plan.model_copy(update={"executor": executor}))
    assert (other.sample(noise=noise, condition=1) - inorder).abs().max() < 5e-3


def test_what_moves_pictures_least_is_narrow(model, small):
    few = learn_narrow(model, BASE, small, ode_error=1e-7, n=4)
    assert few.plan.small_at == (0, 0, 0, 0)
    every = learn_narrow(model, BASE, small, ode_error=10.0, n=4)
    assert every.plan.small_at == (1, 1, 1, 1)
    middle = sorted(every.alone)[1]
    some = learn_narrow(model, BASE, small, ode_error=1.01 * middle, n=4)
    assert 0 < sum(some.plan.small_at or ()) < 4
    assert some.ode_error <= 1.01 * middle
    assert macs(hasten.build(model, some.plan)) == macs(hasten.build(model, BASE))  # equal networks
    assert some.macs == 1.0


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"small_at": "(0,1)"}, "2 entries"),
        ({"small_at": "(0,2,1,1)"}, "ones and zeros"),
        ({"small_at": None}, "go together"),
        ({"reuse": "deep(branch=0)"}, "drop one"),
        ({"small": "nowhere"}, "nowhere"),
        ({"solver": "adaptive-ode"}, "drop small"),
    ],
)
def test_what_does_not_fit_is_refused(model, small, changes, words):
    with pytest.raises(UserError, match=words):
        hasten.build(model, narrow(small, "(0,1,0,1)").model_copy(update=changes))


def test_a_small_network_of_another_kind_is_refused(model, small, tmp_path):
    other = dataclasses.replace(model, prediction=prediction("v"), teacher=digest(model))
    save_folder(other, tmp_path / "other")
    with pytest.raises(UserError, match="have to be the same"):
        hasten.build(model, narrow(str(tmp_path / "other"), "(0,1,0,1)"))
    with pytest.raises(UserError, match="drop small"):
        bundle(model, narrow(small, "(0,1,0,1)"))


def test_the_command_line_finds_the_column(teacher, tmp_path):
    from hasten.cli import main

    out, folder = tmp_path / "narrow.json", str(teacher.folder)
    own = {"solver": "ddim", "grid": "uniform", "steps": 4}
    kind = {"plans": (own,), "teacher": digest(teacher), "name": "same", "sha256": ""}
    save_folder(dataclasses.replace(teacher, **kind), tmp_path / "same")
    base = ["learn", "narrow", folder, "--small", str(tmp_path / "same"), "--out", str(out)]
    with pytest.raises(SystemExit) as stop:
        main([*base, "--plan", str(BASE), "--n", "2"])
    assert not stop.value.code
    assert Plan.read(str(out)).small_at == (1, 1, 1, 1)
    with pytest.raises(SystemExit) as stop:
        main([*base, "--ODE error", "0"])
    assert stop.value.code == 2
