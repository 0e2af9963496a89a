"""The search of programs, on the exact model and on invented ODE errors."""

from __future__ import annotations

import dataclasses
import math
import random

import pytest
from tuning_fakes import SMALL, FakeClock, gaussian_model

from hasten.core.model import Model
from hasten.core.plan import Plan
from hasten.core.report import OdeError
from hasten.tuning.records import Origin, Trial
from hasten.tuning.search import ProgramSearch
from hasten.tuning.settings import TunerSettings
from hasten.tuning.space import Space, StepLadder

SETTINGS = TunerSettings(level_trials=4, level_random_trials=2)
FAST, SLOW = "ddim", "heun"  # a solver whose error falls quickly, and one far behind it


class Screen:
    """Answers with an invented ODE error, a quarter of a second each on the clock."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock, self.plans, self.pictures = clock, [], []

    def __call__(self, plan: Plan, by: Origin, pictures: int) -> Trial:
        self.plans.append(plan)
        self.pictures.append(pictures)
        self.clock.now += 0.25
        rmse = (1.0 if plan.solver == FAST else 5.0) / plan.steps**2
        # Few pictures have a wider interval, and are a little harder here than all of them.
        wide = {8: 0.4, 32: 0.2, 64: 0.1}[pictures]
        rmse *= 1.0 + wide / 10 - 0.01
        error = OdeError(
            rmse=rmse, low=(1 - wide) * rmse, high=(1 + wide) * rmse, n=pictures, reference="it"
        )
        return Trial(plan=plan, evaluations=plan.steps, ode_error=error, by=by, seconds=0.25)


def made(
    space: Space = SMALL,
    max_loss: float = 0.05,
    model: Model | None = None,
    pictures: tuple[int, ...] = (64,),
):
    clock = FakeClock()
    screen = Screen(clock)
    search = ProgramSearch(
        model=model or gaussian_model(),
        space=space,
        guidance=1.0,
        max_loss=max_loss,
        seed=0,
        pictures=pictures,
        screen=screen,
        clock=clock,
        settings=SETTINGS,
    )
    return search, screen, clock


def ladder(solver: str, steps: tuple[int, ...] = (2, 3, 4, 5, 6, 8, 10)) -> StepLadder:
    return StepLadder(tuple(Plan(solver=solver, grid="uniform", steps=n) for n in steps))


LADDERS = [
    StepLadder(
        tuple(
            Plan(solver=solver, grid=grid, steps=steps) for steps in (2, 3, 4, 5, 6, 8, 10, 15, 20)
        )
    )
    for solver in (FAST, "unipc", "dpmpp(order=3)")
    for grid in ("uniform", "karras")
]


def fewest_of(search: ProgramSearch) -> int:
    return min(trial.evaluations for trial in search.trials if trial.passes(search.max_loss))


def test_the_fewest_evaluations_that_pass_are_found_in_part_of_the_measurements():
    search, screen, _ = made()
    search.search_fewest(LADDERS, 1e9)
    assert fewest_of(search) == 5  # 1 / 25 and a tenth pass, 1 / 16 does not
    assert len(screen.plans) < sum(len(ladder.plans) for ladder in LADDERS) / 2
    assert len(set(map(str, screen.plans))) == len(screen.plans)  # no plan on all pictures twice
    assert search.spent_s == 0.25 * len(screen.plans)


def test_what_is_known_to_be_good_is_given_steps_until_it_passes():
    search, screen, _ = made(max_loss=0.03)
    search.search_fewest(LADDERS, 1e9)
    assert [(plan.solver, plan.grid, plan.steps) for plan in screen.plans[:2]] == [
        ("unipc", "uniform", 10),  # 0.05 and 0.022
        ("unipc", "uniform", 15),
    ]
    assert fewest_of(search) == 8


def test_more_pictures_are_for_what_may_still_pass():
    search, screen, _ = made(pictures=(8, 32, 64))
    search.search_fewest(LADDERS, 1e9)
    assert fewest_of(search) == 5
    on_all = {str(p) for p, n in zip(screen.plans, screen.pictures, strict=True) if n == 64}
    assert {f"solver={FAST},grid={grid},steps=5" for grid in ("uniform", "karras")} & on_all
    assert len(on_all) < len(set(map(str, screen.plans))) / 2
    # A plan that was measured on more pictures is one trial.
    names = [str(trial.plan) for trial in search.trials]
    assert len(names) == len(set(names))


def test_a_pass_on_few_pictures_is_not_one_on_all():
    search, screen, _ = made(pictures=(8, 64), max_loss=1.5)
    real = screen.__call__

    def lucky(plan: Plan, by: Origin, pictures: int) -> Trial:
        trial = real(plan, by, pictures)
        rmse = 0.01 if pictures == 8 else 9.0
        error = OdeError(rmse=rmse, low=rmse, high=rmse, n=pictures, reference="it")
        return dataclasses.replace(trial, ode_error=error)

    search.screen = lucky
    search.search_fewest(LADDERS[:1], 1e9)
    assert search._fewest_that_pass() == math.inf


def test_a_search_that_has_no_time_left_ends():
    search, screen, clock = made()
    search.search_fewest(LADDERS, clock.now + 0.3)
    assert len(screen.plans) == 2


def test_where_nothing_can_pass_the_search_ends_by_itself():
    search, screen, _ = made(max_loss=1e-9)
    search.search_fewest(LADDERS, 1e9)
    assert 0 < len(screen.plans) < 30


def test_a_ladder_far_behind_pauses_until_twice_its_steps():
    search, screen, _ = made()
    search.search_steps([ladder(FAST), ladder(SLOW)], 1e9)
    assert [plan.steps for plan in screen.plans if plan.solver == SLOW] == [2, 4, 8]
    # The error of 8 steps, 1 / 64, is below 0.4 * 0.05: the first below it, so 10 is not tried.
    assert [plan.steps for plan in screen.plans if plan.solver == FAST] == [2, 3, 4, 5, 6, 8]
    assert search.max_steps == 8


def test_lack_of_time_costs_the_plans_of_many_steps():
    search, screen, _ = made()
    search.search_steps([ladder(FAST)], 0.6)  # room for three of a quarter of a second
    assert [plan.steps for plan in screen.plans] == [2, 3, 4]
    assert search.not_tried == 4


def test_two_names_for_one_program_are_measured_once():
    search, screen, _ = made()
    same = [
        StepLadder((Plan(solver=f"dpmpp(order={order})", grid="uniform", steps=1),))
        for order in (1, 2)
    ]
    search.search_steps(same, 1e9)
    assert len(screen.plans) == 1
    assert [trial.seconds for trial in search.trials] == [0.25, 0.0]
    assert search.trials[0].ode_error == search.trials[1].ode_error


def test_levels_are_searched_from_one_step_below_the_cheapest_plan_that_passes():
    search, screen, _ = made()
    search.search_steps([ladder(FAST)], 1e9)
    before = len(screen.plans)
    search.search_levels(1e9)
    # 1 / 25 passes with 5 steps; 4 steps (0.0625) are within twice the bar, 3 (0.111) are not.
    searched = screen.plans[before:]
    assert [plan.steps for plan in searched] == [4] * 4 + [5] * 4
    assert all(plan.grid.startswith("given(at=") for plan in searched)
    assert {trial.by for trial in search.trials[-8:]} == {"level search"}


def test_random_search_is_given_the_same_seconds():
    search, _, clock = made()
    search.search_steps([ladder(FAST)], 1e9)
    search.search_levels(1e9)
    spent = sum(trial.seconds for trial in search.trials)
    assert spent == 0.25 * 14
    began = clock.now
    baseline = search.random_baseline(1e9)
    assert (baseline.plans, baseline.seconds, baseline.share) == (14, 3.5, 1.0)
    # It pays again for programs that the search knows, on the books but not on the clock.
    assert clock.now - began <= 3.5
    assert baseline.best is not None
    assert baseline.best.rmse <= 0.05
    assert sum(trial.by == "random search" for trial in search.trials) == 14  # all are candidates


def test_random_search_ends_with_the_budget_and_says_what_share_it_had():
    search, _, clock = made(space=Space(solvers=("heun",)))
    search.search_steps([ladder(FAST)], 1e9)
    baseline = search.random_baseline(clock.now + 0.7)
    assert (baseline.plans, baseline.seconds) == (3, 0.75)
    assert baseline.share == pytest.approx(0.5)


def test_random_plans_stay_in_the_space():
    generator, model = random.Random(0), gaussian_model()
    plans = [SMALL.random_plan(generator, model, 2.0) for _ in range(300)]
    assert {plan.solver for plan in plans} == {Plan(solver=name).solver for name in SMALL.solvers}
    assert {plan.grid.partition("(")[0] for plan in plans} == {"uniform", "karras"}
    steps = sorted(plan.steps for plan in plans)
    assert 2 <= steps[0] <= steps[-1] <= 50
    assert 8 <= steps[150] <= 12  # log-uniform: the median is the root of 2 * 50
    assert {plan.guidance for plan in plans} == {2.0}
