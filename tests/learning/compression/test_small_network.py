"""The evaluations at which a smaller network answers are found by measurement."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch

import hasten
from hasten import Plan
from hasten.adapters.folder import save_folder
from hasten.core.artifact import digest
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


def test_what_moves_pictures_least_is_narrow(model, small):
    few = learn_narrow(model, BASE, small, ode_error=1e-7, n=4)
    assert few.plan.lever("small").at == (0, 0, 0, 0)
    every = learn_narrow(model, BASE, small, ode_error=10.0, n=4)
    assert every.plan.lever("small").at == (1, 1, 1, 1)
    middle = sorted(every.alone)[1]
    some = learn_narrow(model, BASE, small, ode_error=1.01 * middle, n=4)
    assert 0 < sum(some.plan.lever("small").at) < 4
    assert some.ode_error <= 1.01 * middle
    assert macs(hasten.build(model, some.plan)) == macs(hasten.build(model, BASE))  # equal networks
    assert some.macs == 1.0


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
    assert Plan.read(str(out)).lever("small").at == (1, 1, 1, 1)
    with pytest.raises(SystemExit) as stop:
        main([*base, "--ode-error", "0"])
    assert stop.value.code == 2
