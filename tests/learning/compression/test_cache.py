"""Learned masks of a feature cache."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest

import hasten
from hasten.cli import _status
from hasten.core.errors import UserError
from hasten.core.plan import Plan
from hasten.learning.compression.cache import Bench, branches, even, learn_cache_mask, least
from hasten.learning.compression.feature_error import Distances
from hasten.measuring.macs import macs

BASE = Plan(solver="ddim", grid="uniform", steps=6)


@pytest.mark.parametrize("forecast", [0, 1])
@pytest.mark.parametrize("power", [1.0, 2.0])
def test_dynamic_programming_finds_the_mask_that_trying_all_finds(forecast, power):
    rng = np.random.default_rng(0)
    features = np.cumsum(rng.normal(size=(8, 3)), axis=0)
    distances = Distances(
        products=features @ features.T,
        times=np.linspace(900, 20, 8),
        weights=rng.uniform(0.5, 2.0, 8),
        forecast=forecast,
    )

    def total(mask: tuple[int, ...]) -> float:
        keys, out = [k for k, full in enumerate(mask) if full], 0.0
        for place, s in enumerate(keys):
            r = keys[place - 1] if place and forecast else -1
            e = [*keys, 8][place + 1]
            out += sum(distances(r, s, t) for t in range(s + 1, e)) ** power
        return out

    masks = [(1, *rest) for rest in itertools.product((0, 1), repeat=7)]
    for most in range(1, 9):
        wanted = min(total(mask) for mask in masks if sum(mask) <= most)
        found = least(distances, [1] * 8, most, power)
        assert sum(found) <= most
        assert total(found) == pytest.approx(wanted, abs=1e-9)


def test_distances_are_those_between_the_features_and_the_forecast_ones():
    features = np.random.default_rng(0).normal(size=(3, 5))
    facts = {"times": np.asarray([9.0, 5.0, 2.0]), "weights": np.ones(3)}
    plain = Distances(products=features @ features.T, **facts)
    ahead = features[1] + (2 - 5) / (5 - 9) * (features[1] - features[0])
    assert plain(0, 1, 2) == pytest.approx(np.linalg.norm(features[2] - features[1]))
    forecast = dataclasses.replace(plain, forecast=1)
    assert forecast(0, 1, 2) == pytest.approx(np.linalg.norm(features[2] - ahead))


@pytest.mark.slow
def test_a_learned_mask_keeps_its_budget_and_has_no_more_ode_error_than_an_even_one(tiny_model):
    model = tiny_model(labels=3)
    found = learn_cache_mask(model, BASE, budget=0.7, cuts=["deep(branch=0)"], n=2)
    bench = Bench(model, BASE, "deep(branch=0)", n=2)
    part = found.plan.lever("deep")
    assert part is not None
    assert found.macs <= 0.7
    assert found.ode_error <= bench.measured(even(bench.units, sum(part.mask))).ode_error
    full = macs(hasten.build(model, BASE))
    assert macs(hasten.build(model, found.plan)) == pytest.approx(found.macs * full)


def test_full_evaluations_at_equal_distances():
    assert even([1] * 6, 3) == (1, 0, 1, 0, 1, 0)
    assert even([1] * 5, 2) == (1, 0, 1, 0, 0)
    assert even([1] * 4, 1) == (1, 0, 0, 0)
    assert even([2, 2, 1, 1], 4) == (1, 0, 1, 0)  # what is guided costs two


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"budget": 0.0}, "budget is 0.0"),
        ({"budget": 1.5}, "budget is 1.5"),
        ({"budget": 0.01}, "a feature cache takes at least"),
        ({"cuts": ["first-block"]}, "there is no mask to learn"),
        ({"plan": BASE.with_lever("deep")}, "the plan has a feature cache already"),
        (
            {"plan": BASE.model_copy(update={"steps": 1})},
            "makes 1 evaluations; a mask is learned for 2 to",
        ),
        ({"n": 0}, "n is 0"),
    ],
)
def test_a_mask_that_cannot_be_learned_says_why(tiny_model, changes, words):
    given = {"plan": BASE, "cuts": ["deep(branch=0)"], "n": 1, **changes}
    with pytest.raises(UserError, match=words):
        learn_cache_mask(tiny_model(), given.pop("plan"), **given)


def test_the_command_line_learns_a_plan(tmp_path, monkeypatch, tiny_model, capsys):
    monkeypatch.setattr("hasten.adapters.load.load", lambda name, **_: tiny_model())
    out = tmp_path / "cache.json"
    words = ["learn", "cache", "tiny", "--plan", str(BASE), "--budget", "0.8", "--branch", "0"]
    assert _status([*words, "--n", "1", "--out", str(out)]) == 0
    found = Plan.read(out)
    assert str(found) in capsys.readouterr().out
    assert Plan.read(str(found)) == found
    assert len(found.lever("deep").mask) == 6
    assert _status([*words, "--budget", "2", "--out", str(out)]) == 2


def test_every_branch_of_a_unet_is_tried(tiny_model):
    wanted = [f"deep(branch={k}{more})" for k in range(4) for more in ("", ", forecast=1")]
    assert branches(tiny_model()) == wanted
