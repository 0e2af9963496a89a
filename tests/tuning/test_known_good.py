"""Programs that are known to be good, by family of noise schedule."""

from __future__ import annotations

import itertools

import pytest

from hasten.core.noise_schedule import schedule
from hasten.core.plan import Plan
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


@pytest.mark.parametrize("text", ["edm", "vp-linear", "flow"])
def test_pairs_are_written_as_plans_write_them(text):
    pairs = known_good(schedule(text))
    space = Space()
    plans = [Plan(solver=a, grid=b) for a, b in itertools.product(space.solvers, space.grids)]
    assert len(pairs) == len(KNOWN_GOOD[family(schedule(text))])
    assert set(pairs) <= {(plan.solver, plan.grid) for plan in plans}
