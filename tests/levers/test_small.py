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
from hasten.core.engine import Prepared
from hasten.core.prediction import prediction
from hasten.exporting.bundle import bundle

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
    return BASE.with_lever(f"small(folder={small!r}, at={at})")


class Told(Prepared):
    """A prepared network that writes down its name when it is called."""

    def __init__(self, net: Prepared, name: str, asked: list[str]) -> None:
        self.net, self.name, self.asked = net, name, asked

    def __call__(self, x, t, condition=None, *kept):
        self.asked.append(self.name)
        return self.net(x, t, condition, *kept)


def test_the_column_says_which_network_runs(model, small):
    noise = torch.randn(3, *model.shape)
    given = {"noise": noise, "condition": [0, 1, 0], "raw": True}
    whole = hasten.build(model, BASE).sample(**given)
    none = hasten.build(model, narrow(small, "(0,0,0,0)")).sample(**given)
    every = hasten.build(model, narrow(small, "(1,1,1,1)")).sample(**given)
    alone = hasten.build(model, BASE.with_lever(f"student(folder={small!r})")).sample(**given)
    assert torch.equal(none, whole)
    assert torch.equal(every, alone)
    some = hasten.build(model, narrow(small, "(0,1,0,1)"))
    asked = []
    for name in ("whole", "small"):
        setattr(some.net, name, Told(getattr(some.net, name), name, asked))
    assert torch.isfinite(some.sample(**given)).all()
    assert asked == ["whole", "small", "whole", "small"]


@pytest.mark.parametrize("executor", ["picard", "anderson", "early-exit(tolerance=0.001)"])
def test_it_goes_with_executors_that_ask_in_another_order(model, small, executor):
    noise = torch.randn(2, *model.shape)
    plan = narrow(small, "(0,1,0,1)")
    inorder = hasten.build(model, plan).sample(noise=noise, condition=1)
    other = hasten.build(model, plan.model_copy(update={"executor": executor}))
    assert (other.sample(noise=noise, condition=1) - inorder).abs().max() < 5e-3


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"at": "(0, 1)"}, "at has 2 entries, but the plan makes 4 evaluations"),
        ({"at": "(0, 2, 1, 1)"}, "ones .small. and zeros"),
        ({"at": "()"}, "ones .small. and zeros"),
        ({"at": None}, "lacks option 'at'"),
        ({"folder": None}, "lacks option 'folder'"),
        ({"folder": "nowhere"}, "folder is 'nowhere'"),
    ],
)
def test_options_that_do_not_fit_are_refused(model, small, changes, words):
    options = {"folder": small, "at": "(0, 1, 0, 1)", **changes}
    texts = {"folder": repr(options["folder"]), "at": options["at"]}
    given = ", ".join(f"{name}={texts[name]}" for name in texts if options[name] is not None)
    with pytest.raises(UserError, match=words):
        hasten.build(model, BASE.with_lever(f"small({given})"))


def test_what_does_not_go_with_it_is_refused(model, small):
    plan = narrow(small, "(0,1,0,1)")
    with pytest.raises(UserError, match=r"'deep' says which variant .*, and 'small' .*drop one"):
        plan.with_lever("deep(branch=0)")
    with pytest.raises(UserError, match=r"solver 'adaptive-ode' has none.*drop small"):
        hasten.build(model, plan.model_copy(update={"solver": "adaptive-ode"}))


def test_a_small_network_of_another_kind_is_refused(model, small, tmp_path):
    other = dataclasses.replace(model, prediction=prediction("v"), teacher=digest(model))
    save_folder(other, tmp_path / "other")
    with pytest.raises(UserError, match="have to be the same"):
        hasten.build(model, narrow(str(tmp_path / "other"), "(0,1,0,1)"))
    with pytest.raises(UserError, match="drop small"):
        bundle(model, narrow(small, "(0,1,0,1)"))
