"""Programs that are known to be good, by family of noise schedule."""

from __future__ import annotations

import dataclasses

import pytest
from tuning_fakes import gaussian_model

from hasten.core.noise_schedule import schedule
from hasten.tuning.known_good import KNOWN_GOOD, family, known_good
from hasten.tuning.space import Space


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("edm", "variance exploding"),
        ("vp-linear", "variance preserving"),
        ("vp-cosine", "variance preserving"),
        ("ddpm", "variance preserving"),
        ("flow", "flow"),
        ("flow(shift=3.0)", "flow"),
    ],
)
def test_the_family_follows_from_how_signal_and_noise_are_mixed(text, expected):
    assert family(schedule(text)) == expected


def test_every_program_is_one_that_the_tuner_considers():
    space = Space()
    pairs = {pair for ranked in KNOWN_GOOD.values() for pair in ranked}
    assert {solver for solver, _ in pairs} <= set(space.solvers)
    assert {grid for _, grid in pairs} <= set(space.grids)


def test_ladders_keep_the_ranking_and_the_space():
    model, space = gaussian_model(), Space(solvers=("ddim", "unipc(order=3)"), steps=(4, 8))
    ladders = known_good(model, space, 1.0)
    first = [ladder.plans[0] for ladder in ladders]
    names = list(dict.fromkeys(plan.solver for plan in first))
    ranked = [solver for solver, _ in KNOWN_GOOD[family(model.schedule)] if solver in space.solvers]
    assert names == ranked
    assert {plan.steps for ladder in ladders for plan in ladder.plans} == {4, 8}


def test_a_solver_that_the_schedule_refuses_is_left_out():
    model = dataclasses.replace(gaussian_model(), schedule=schedule("edm"))
    assert all(ladder.plans for ladder in known_good(model, Space(), 1.0))
