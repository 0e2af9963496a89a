"""What the error of a program that was not tried is guessed to be."""

from __future__ import annotations

import math
import random

import pytest

from hasten.core.plan import Plan
from hasten.core.report import OdeError
from hasten.tuning.error_model import ErrorModel, Guess
from hasten.tuning.records import Trial

SOLVERS = {"ddim": 1.0, "dpmpp": 0.6, "unipc": 0.5, "heun": 1.4}
GRIDS = {"uniform": 1.0, "karras": 1.3, "log-snr": 0.8}


def error_of(plan: Plan) -> float:
    """An invented error: a product of a solver's, a grid's and a power of the steps."""
    return 2.0 * SOLVERS[plan.solver] * GRIDS[plan.grid] * plan.steps**-1.7


def trial(plan: Plan, pictures: int = 64, factor: float = 1.0) -> Trial:
    rmse = factor * error_of(plan)
    error = OdeError(rmse=rmse, low=rmse, high=rmse, n=pictures, reference="it")
    return Trial(plan=plan, evaluations=plan.steps, ode_error=error, by="none", seconds=1.0)


def plans() -> list[Plan]:
    every = [
        Plan(solver=solver, grid=grid, steps=steps)
        for solver in SOLVERS
        for grid in GRIDS
        for steps in (3, 4, 5, 6, 8, 10)
    ]
    random.Random(0).shuffle(every)
    return every


def test_a_third_of_the_programs_tells_the_others_within_their_deviation():
    every = plans()
    tried, others = every[:24], every[24:]
    model = ErrorModel([trial(plan) for plan in tried], 64)
    guesses = model.guesses([(plan, plan.steps) for plan in others])
    off = [
        (guess.mean - math.log(error_of(plan))) / guess.deviation
        for guess, plan in zip(guesses, others, strict=True)
    ]
    assert max(map(abs, off)) < 2.5
    assert sum(abs(x) < 1 for x in off) > 0.6 * len(off)
    assert max(guess.deviation for guess in guesses) < 0.6


def test_what_was_measured_is_known_best():
    every = plans()
    model = ErrorModel([trial(plan) for plan in every[:24]], 64)
    (measured, new) = model.guesses([(every[0], every[0].steps), (every[30], every[30].steps)])
    assert measured.mean == pytest.approx(math.log(error_of(every[0])), abs=0.05)
    assert measured.deviation < new.deviation


def test_pictures_that_are_harder_are_allowed_for():
    every = plans()
    few = [trial(plan, 8, factor=1.4) for plan in every[:24]]
    both = few + [trial(plan, 64) for plan in every[:4]]
    other = every[40]
    (without,), (with_them,) = (
        ErrorModel(trials, 64).guesses([(other, other.steps)]) for trials in (few, both)
    )
    true = math.log(error_of(other))
    assert abs(with_them.mean - true) < abs(without.mean - true)


def test_nothing_measured_gives_what_is_known_of_the_field():
    model = ErrorModel([], 64, known_good=[("unipc", "uniform")])
    known, other, few = model.guesses(
        [
            (Plan(solver="unipc", grid="uniform", steps=8), 8),
            (Plan(solver="heun", grid="uniform", steps=8), 8),
            (Plan(solver="unipc", grid="uniform", steps=3), 3),
        ]
    )
    assert known.mean < other.mean
    assert known.mean < few.mean


def test_chances_are_those_of_the_normal_distribution():
    guess = Guess(mean=math.log(0.1), deviation=0.5)
    assert guess.chance_below(0.1) == pytest.approx(0.5)
    assert guess.chance_below(0.1 * math.exp(0.5)) == pytest.approx(0.8413, abs=1e-4)
