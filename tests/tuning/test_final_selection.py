"""Which plans become finalists."""

from __future__ import annotations

import dataclasses

import pytest
from tuning_fakes import (
    REFERENCE,
    engine_cost,
    estimate,
    finalist,
    gaussian_model,
    make_runner,
    ode_error,
    quality,
    report,
    trial,
)

from hasten.core.plan import Plan
from hasten.core.report import Estimate
from hasten.tuning.budget import Budget
from hasten.tuning.final_selection import FinalSelection, by_evaluations
from hasten.tuning.recommendation import passes
from hasten.tuning.records import Finalist, FinalQuality
from hasten.tuning.requests import CompareFd, MeasureQuality, MeasureReport
from hasten.tuning.settings import TunerSettings

FAST = Budget(seconds=240.0, sample_s=1e-5, call_s=0.003)
SLOW = Budget(seconds=240.0, sample_s=1.0, call_s=1.0)


def reports(errors: dict[int, float]):
    """Reports whose ODE error follows from the number of steps."""

    def answer(request: MeasureReport):
        steps = request.plan.steps
        error = None if request.plan.stochastic else ode_error(errors[steps])
        return report(request.plan, steps, steps, error)

    return answer


def selection(answers=None, budget: Budget = FAST, engines=None, **settings) -> FinalSelection:
    runner, _, _ = make_runner(gaussian_model(), answers, settings=TunerSettings(**settings))
    runner.estimated = budget
    return FinalSelection(
        runner=runner,
        engines=engines or [engine_cost()],
        max_loss=0.05,
        reference=REFERENCE,
        batch=1,
    )


def test_each_level_keeps_its_best_programs_and_what_was_not_screened():
    screened = [trial(Plan(steps=3 + k), 0.01 * k, 3) for k in range(1, 6)]
    early = trial(Plan(steps=1), None, 3)
    expensive = trial(Plan(steps=2), None, 9)
    levels = by_evaluations(screened, [early, expensive], 3)
    assert levels == {3: [*screened[:3], early]}


def test_without_real_pictures_levels_are_reported_from_the_first_that_passes_on():
    errors = {2: 0.2, 3: 0.1, 4: 0.06, 5: 0.04, 6: 0.03, 8: 0.02}
    finals = selection({MeasureReport: reports(errors)})
    # On few samples 4 steps passed; on all they do not: up to one above 5, the first that does.
    screened = [trial(evaluations=n, rmse=0.045 if n == 4 else rmse) for n, rmse in errors.items()]
    finals.select_by_ode_error(screened)
    assert [one.report.evaluations for one in finals.finalists] == [4, 5, 6]


def test_a_program_that_bfloat16_spoils_is_reported_in_float32_too():
    def answer(request: MeasureReport):
        error = 0.04 if request.plan.dtype == "float32" else 0.06
        return report(request.plan, 5, 5, ode_error(error))

    engines = [engine_cost(dtype="bfloat16", milliseconds=1.0), engine_cost()]
    finals = selection({MeasureReport: answer}, engines=engines)
    finals.select_by_ode_error([trial(evaluations=5, rmse=0.04)])
    assert [one.plan.dtype for one in finals.finalists] == ["bfloat16", "float32"]
    assert {one.plan.device for one in finals.finalists} == {"cpu"}


def test_fd_is_not_measured_where_that_takes_too_long():
    finals = selection({MeasureReport: reports({3: 0.01})}, budget=SLOW)
    finals.select_by_fd([trial(evaluations=3)], [])
    assert "FD: not measured, because 500 samples take about 1500 s here" in finals.runner.notes[0]
    assert [one.report.fd for one in finals.finalists] == [None]


def test_with_real_pictures_levels_are_judged_down_to_where_none_passes():
    fds = {20: 1.0, 10: 1.1, 5: 1.2, 4: 2.0, 3: 3.0}
    errors = {20: 0.001, 10: 0.03, 5: 0.06, 4: 0.07, 3: 0.1}
    answers = {
        MeasureReport: reports(errors),
        MeasureQuality: lambda request: quality(fds[request.plan.steps]),
        CompareFd: lambda request: Estimate(value=0.1, low=-0.1, high=0.3, n=request.samples),
    }
    finals = selection(answers)
    finals.select_by_fd([trial(evaluations=n, rmse=rmse) for n, rmse in errors.items()], [])
    # 10 is the cheapest whose ODE error passes; the bar is 1.25 * 1.05 * 1.0, so 4 ends the search.
    judged = {one.report.evaluations: one for one in finals.finalists}
    assert set(judged) == {20, 10, 5, 4}
    assert judged[20].faithful
    assert {n for n, one in judged.items() if one.final_quality} == {20, 10, 5}
    assert judged[20].final_quality.excess_fd is None
    assert judged[5].final_quality.excess_fd.low == -0.1
    assert judged[5].final_quality.excess_fd.n == 2000
    assert finals.leader().report.evaluations == 5


def test_late_reports_are_made_for_the_first_few_alone():
    finals = selection({MeasureReport: reports(dict.fromkeys(range(2, 9), 0.2))}, min_reports=2)
    finals.runner.clock.now = 239.0
    finals.select_by_ode_error([trial(evaluations=n, rmse=0.01) for n in range(2, 9)])
    assert len(finals.finalists) == 2


def test_where_it_pays_expensive_finalists_are_reported_in_parallel_too():
    finals = selection({MeasureReport: reports({20: 0.01, 4: 0.02})})
    judged = FinalQuality(quality=quality(1.0))
    for steps in (20, 4):
        plan = Plan(solver="ddim", grid="uniform", steps=steps)
        made = Finalist(report=report(plan, steps, steps), final_quality=judged)
        finals.finalists.append(made.with_quality(quality(2.0)))
    finals.add_parallel()
    *_, parallel = finals.finalists
    assert len(finals.finalists) == 3
    assert (parallel.plan.steps, parallel.plan.executor) == (20, "anderson")
    assert parallel.final_quality is judged  # it makes the same samples
    assert parallel.report.fd == estimate(2.0)


def test_a_variant_is_judged_as_the_finalist_it_comes_from():
    answers = {
        MeasureReport: reports({5: 0.01}),
        MeasureQuality: lambda request: quality(1.5),
        CompareFd: lambda request: Estimate(value=0.0, low=-0.1, high=0.1, n=request.samples),
    }
    finals = selection(answers)
    first = dataclasses.replace(finalist(20, 0.001, (0.0, 0.0)), faithful=True)
    leader = finalist(6, 0.01, (-0.1, 0.1))
    finals.finalists = [first, leader]
    finals.add_variant(Plan(steps=5), leader)
    *_, variant = finals.finalists
    assert variant.report.fd == estimate(1.5)
    assert variant.final_quality is not None
    assert variant.final_quality.excess_fd.n == 2000


@pytest.mark.parametrize(("seconds", "min_rounds"), [(1.0, 5), (20.0, 2), (500.0, 1)])
def test_slow_plans_race_fewer_rounds(seconds, min_rounds):
    finals = selection()  # 45 of its 240 seconds are kept for the race
    assert finals.race_rules(seconds).min_rounds == min_rounds


def test_the_most_faithful_plan_is_one_finalist_where_no_ode_error_passes():
    errors = {6: 0.06, 5: 0.07, 4: 0.08}
    judged: list[int] = []

    def measured(request: MeasureQuality):
        judged.append(request.plan.steps)
        return quality(1.0)

    answers = {
        MeasureReport: reports(errors),
        MeasureQuality: measured,
        CompareFd: lambda request: Estimate(value=-0.1, low=-0.2, high=-0.05, n=request.samples),
    }
    finals = selection(answers)
    finals.select_by_fd([trial(evaluations=n, rmse=rmse) for n, rmse in errors.items()], [])
    reported = [one.report.evaluations for one in finals.finalists]
    assert len(reported) == len(set(reported))
    (faithful,) = (one for one in finals.finalists if one.faithful)
    assert faithful.final_quality is not None
    assert judged.count(6) == 2  # few samples, then many
    assert finals.leader().report.evaluations == 4


def test_the_parallel_twin_of_the_most_faithful_plan_passes_as_it_does():
    alone = FinalQuality(quality=quality(1.0), excess_fd=None)
    first = dataclasses.replace(finalist(20, 0.01), final_quality=alone, faithful=True)
    twin = dataclasses.replace(first, faithful=False)
    assert passes(first, first, 0.05, True)
    assert passes(twin, first, 0.05, True)


def test_an_error_of_few_pictures_does_not_make_a_plan_the_most_faithful():
    few = dataclasses.replace(ode_error(0.001), high=0.03, n=8)
    lucky = dataclasses.replace(trial(evaluations=4), ode_error=few)
    thorough = trial(evaluations=10, rmse=0.01)
    assert selection()._faithful([lucky, thorough]) is thorough
