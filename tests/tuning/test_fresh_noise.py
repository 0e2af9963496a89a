"""The recommended plan is measured once more on noise that chose nothing."""

from __future__ import annotations

import pytest
from tuning_fakes import REFERENCE, finalist, gaussian_model, make_runner, ode_error

from hasten.tuning.budget import Budget
from hasten.tuning.fresh_noise import checked_on_fresh_noise
from hasten.tuning.requests import MakeReference, Screen, Screening


def runner_where(errors: dict[int, float], minutes: float = 100.0):
    """A runner whose plans have these ODE errors on fresh noise, by their number of steps."""

    def screen(request: Screen) -> Screening:
        return Screening(evaluations=1, ode_error=ode_error(errors[request.plan.steps]))

    answers = {Screen: screen, MakeReference: lambda request: request.reference}
    runner, _, _ = make_runner(gaussian_model(), answers, minutes=minutes)
    runner.estimated = Budget(seconds=minutes * 60, sample_s=0.001, call_s=0.001)
    return runner


def test_the_plan_that_would_be_recommended_is_measured_on_samples_that_chose_nothing():
    runner = runner_where({5: 0.03})
    checked = checked_on_fresh_noise(
        runner, [finalist(9, 0.01), finalist(5, 0.02)], REFERENCE, 0.05
    )
    assert [one.fresh and one.fresh.rmse for one in checked] == [None, 0.03]
    (made,) = runner.backend.of_kind(MakeReference)
    assert (made.reference.first, made.reference.samples) == (REFERENCE.samples, REFERENCE.samples)


def test_a_plan_that_fails_on_fresh_noise_makes_room_for_the_next():
    runner = runner_where({5: 0.08, 7: 0.04, 9: 0.01})
    finalists = [finalist(9, 0.01), finalist(7, 0.015), finalist(5, 0.02)]
    checked = checked_on_fresh_noise(runner, finalists, REFERENCE, 0.05)
    assert [one.fresh and one.fresh.rmse for one in checked] == [None, 0.04, 0.08]
    assert len(runner.backend.of_kind(Screen)) == 2


@pytest.mark.parametrize(
    "finalists",
    [[finalist(5, 0.2)], [finalist(9, 0.01, (0.0, 0.0))]],
    ids=["no plan passes", "real pictures decide"],
)
def test_it_is_not_measured_where_it_decides_nothing(finalists):
    runner = runner_where({})
    assert checked_on_fresh_noise(runner, finalists, REFERENCE, 0.05) == finalists
    assert runner.backend.requests == []


def test_it_is_not_measured_where_the_budget_is_spent():
    runner = runner_where({5: 0.01}, minutes=1.0)
    runner.clock.now = 60.0
    finalists = [finalist(5, 0.02)]
    assert checked_on_fresh_noise(runner, finalists, REFERENCE, 0.05) == finalists
    assert "more than is left" in runner.notes[-1]
