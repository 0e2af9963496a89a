"""The search of programs, on the exact model and on invented ODE errors."""

from __future__ import annotations

import random

import pytest
from tuning_fakes import SMALL, FakeClock, gaussian_model, ode_error

from hasten.core.model import Model
from hasten.core.plan import Plan
from hasten.tuning.records import Origin, Trial
from hasten.tuning.search import ProgramSearch
from hasten.tuning.settings import TunerSettings
from hasten.tuning.space import Space, StepLadder

SETTINGS = TunerSettings(level_trials=4, level_random_trials=2)
FAST, SLOW = "ddim", "heun"  # a solver whose error falls quickly, and one far behind it


class Screen:
    """Answers with an invented ODE error, a quarter of a second each on the clock."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock, self.plans = clock, []

    def __call__(self, plan: Plan, by: Origin) -> Trial:
        self.plans.append(plan)
        self.clock.now += 0.25
        rmse = (1.0 if plan.solver == FAST else 5.0) / plan.steps**2
        error = ode_error(rmse)
        return Trial(plan=plan, evaluations=plan.steps, ode_error=error, by=by, seconds=0.25)


def made(space: Space = SMALL, max_loss: float = 0.05, model: Model | None = None):
    clock = FakeClock()
    screen = Screen(clock)
    search = ProgramSearch(
        model=model or gaussian_model(),
        space=space,
        guidance=1.0,
        max_loss=max_loss,
        seed=0,
        screen=screen,
        clock=clock,
        settings=SETTINGS,
    )
    return search, screen, clock


def ladder(solver: str, steps: tuple[int, ...] = (2, 3, 4, 5, 6, 8, 10)) -> StepLadder:
    return StepLadder(tuple(Plan(solver=solver, grid="uniform", steps=n) for n in steps))


def test_what_is_known_to_be_good_is_measured_around_the_fewest_steps_that_pass():
    search, screen, _ = made()
    search.search_known([ladder(FAST), ladder(SLOW), ladder("unipc")], 1e9)
    steps = {
        name: [plan.steps for plan in screen.plans if plan.solver.startswith(name)]
        for name in (FAST, SLOW, "unipc")
    }
    assert steps[FAST] == [10, 8, 6, 5, 4]  # 1 / 25 passes, 1 / 16 does not
    assert steps[SLOW] == [2]  # two evaluations a step: only this is cheaper than five
    assert steps["unipc"] == [4]
    assert search.max_steps == 8  # 1 / 64 is far below the bar


def test_a_first_program_that_does_not_pass_is_given_more_steps():
    search, screen, _ = made(max_loss=0.006)
    search.search_known([ladder(FAST, (5, 10, 12, 15, 20)), ladder(SLOW, (5, 10, 15))], 1e9)
    assert [(plan.solver, plan.steps) for plan in screen.plans] == [
        *((FAST, steps) for steps in (10, 12, 15)),
        (SLOW, 5),
    ]


def test_lack_of_time_leaves_what_is_known_to_be_good_where_it_is():
    search, screen, clock = made()
    search.search_known([ladder(FAST)], clock.now + 0.3)
    assert [plan.steps for plan in screen.plans] == [10, 8]


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
