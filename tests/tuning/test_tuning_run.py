"""Whole runs of the tuner on the exact model, with a clock of their own."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from tuning_fakes import QUICK, SMALL, SMALLER, gaussian_model, make_runner, ode_error

import hasten
from hasten.core.errors import UserError
from hasten.core.plan import Plan
from hasten.tuning.budget import Budget, OutOfTime
from hasten.tuning.page import write_report
from hasten.tuning.requests import MakeReference, Screen, Screening, TimeNetworkCall
from hasten.tuning.result import Tuning
from hasten.tuning.space import Space
from hasten.tuning.tuning_run import TuningRun


def tuned(
    space: Space = SMALL, max_loss: float = 0.05, folder: Path | None = None, **options
) -> Tuning:
    runner, _, _ = make_runner(gaussian_model(), **options)
    return TuningRun(runner=runner, space=space, max_loss=max_loss, folder=folder).result()


def test_tuning_finds_a_plan_below_the_bar_and_writes_the_report(tmp_path):
    model = gaussian_model()
    tuning = tuned(max_loss=0.02)
    (best,) = [one for one in tuning.front if one.plan == tuning.best]
    assert best.report.ode_error.high <= 0.02
    latencies = [one.race_ms.median for one in tuning.front]
    errors = [one.report.ode_error.rmse for one in tuning.front]
    assert latencies == sorted(latencies)
    assert errors == sorted(errors, reverse=True)
    # Every evaluation takes as long, so no plan of fewer evaluations passes.
    cheaper = [one for one in tuning.screened if one.evaluations < best.report.evaluations]
    assert cheaper
    assert min(one.ode_error.high for one in cheaper) > 0.02
    assert tuning.baseline.latency_ms == 2.0 * 1000
    write_report(tuning, model, tmp_path)
    assert hasten.Plan.read(tmp_path / "plan.json") == tuning.best
    body = json.loads((tmp_path / "report.json").read_text())
    assert body == json.loads(json.dumps(tuning.to_dict()))
    assert body["why"] == tuning.why
    page = (tmp_path / "report.html").read_text()
    assert tuning.why in page
    assert "http://" not in page.split("<script>")[0]
    assert (tmp_path / "pictures" / f"{tuning.best.key}.png").exists()


@pytest.mark.slow
def test_the_same_run_finds_the_same_and_knows_what_it_measured():
    first = tuned()
    runner, backend, _ = make_runner(gaussian_model())
    assert TuningRun(runner=runner, space=SMALL, max_loss=0.05).result() == first
    measured = len(backend.requests)
    second, _, _ = make_runner(gaussian_model())
    second.journal, second.backend = runner.journal, backend
    repeated = TuningRun(runner=second, space=SMALL, max_loss=0.05).result()
    assert len(backend.requests) == measured  # every outcome was known
    assert repeated.best == first.best
    assert repeated.screened == first.screened


def test_random_search_gets_as_many_seconds_as_the_search():
    tuning = tuned(minutes=60.0)
    # Programs by two names cost once, and everything else a quarter of a second.
    searched = [trial for trial in tuning.screened if trial.by != "random search"]
    assert tuning.random.seconds == sum(trial.seconds for trial in searched)
    assert len(tuning.screened) > len(searched)  # what random search finds is a candidate too
    assert tuning.random.share == 1.0
    assert tuning.random.plans == 4 * tuning.random.seconds
    assert tuning.random_seconds <= tuning.random.seconds


def test_a_budget_that_ends_during_random_search_is_told():
    tuning = tuned(space=SMALLER, minutes=3.0, request_s=6.0)
    assert tuning.random.share < 1.0


def test_too_little_time_is_one_line_that_says_how_much():
    with pytest.raises(UserError, match=r"^minutes is 1, .* reference alone took 90 s; give 5\.4 "):
        tuned(minutes=1.0, request_s=30.0)


def test_a_reference_that_cannot_be_made_ends_the_run():
    def broken(request):
        raise UserError("the ODE cannot be solved.")

    with pytest.raises(UserError, match=r"^the reference solution of 8 samples: the ODE cannot"):
        tuned(answers={MakeReference: broken})


def test_the_fastest_exact_engine_makes_the_reference():
    runner, backend, _ = make_runner(gaussian_model())
    tuning = TuningRun(runner=runner, space=SMALL, max_loss=0.05).result()
    assert [cost.engine for cost in tuning.engines] == ["eager"]
    assert tuning.reference.startswith("solver=dpmpp(order=3)")
    assert tuning.reference_samples == 8
    accuracy, *screened = [r for r in backend.of_kind(Screen) if not r.reference.first]
    assert (accuracy.samples, accuracy.plan.steps) == (4, 25)  # half the reference's evaluations
    assert {request.samples for request in screened} == {8}
    (fresh,) = [r for r in backend.of_kind(Screen) if r.reference.first]
    assert (fresh.samples, fresh.reference.first) == (8, 8)
    assert len(backend.of_kind(TimeNetworkCall)) == 1


@pytest.mark.parametrize(
    ("off_by", "expected"),
    [(0.01, (16, 30)), (0.018, (8, 60)), (0.1, (8, 60))],
    ids=["a fifteenth of the bar", "an eighth, then a fifteenth", "never a tenth"],
)
def test_a_reference_that_is_not_converged_gets_more_evaluations_of_fewer_samples(off_by, expected):
    settings = dataclasses.replace(QUICK, reference_sizes=((16, 30), (8, 60)))

    def screen(request: Screen) -> Screening:
        half = {15: off_by, 30: off_by / 2}.get(request.plan.steps, 0.02)
        return Screening(evaluations=request.plan.steps, ode_error=ode_error(half))

    runner, _, _ = make_runner(gaussian_model(), {Screen: screen}, settings=settings)
    tuning = TuningRun(runner=runner, space=SMALLER, max_loss=0.05).result()
    assert (tuning.reference_samples, Plan.read(tuning.reference).steps) == expected
    notes = [note for note in tuning.notes if note.startswith("reference solution")]
    assert len(notes) == (off_by == 0.1)
    assert all("their own error is about 0.017 beside a bar of 0.05" in note for note in notes)


def test_an_engine_that_cannot_run_the_network_is_listed_with_the_reason():
    exported = Space(
        solvers=("ddim",),
        grids=("uniform",),
        engines=(("openvino", "float32"), ("eager", "float32")),
    )
    tuning = tuned(exported)  # the code of the network looks at values
    assert any("cannot be exported" in entry.why for entry in tuning.unsupported)
    assert tuning.best.engine == "eager"


def test_a_plan_that_loses_too_much_is_never_called_good():
    coarse = dataclasses.replace(SMALL, solvers=("ddim",), steps=(2, 3))
    tuning = tuned(coarse, max_loss=1e-6)
    assert "No plan's loss is below 1e-06" in tuning.why
    assert tuning.best == min(tuning.finalists, key=lambda one: one.rmse).plan


def test_what_was_left_out_is_said_in_plain_words():
    notes = tuned(SMALLER).notes
    assert [note.partition(":")[0] for note in notes] == [
        "feature cache",
        "parallel sampling",
        "lever merge",
        "lever torchao",
        "eight bits",
    ]


def test_settings_reach_every_phase():
    settings = dataclasses.replace(QUICK, reference_sizes=((16, 20),), rungs=(4,))
    tuning = tuned(SMALLER, settings=settings)
    assert tuning.reference.endswith(",steps=20")
    assert {trial.ode_error.n for trial in tuning.screened} <= {4, 16}
    assert {one.report.ode_error.n for one in tuning.finalists} == {16}


def test_too_little_time_leaves_a_guess_that_is_marked_as_one(tmp_path):
    with pytest.raises(OutOfTime) as caught:
        tuned(minutes=1.0, request_s=30.0, folder=tmp_path)
    assert f"which is in {tmp_path / 'guess.json'}" in str(caught.value)
    assert "not measured" in str(caught.value)
    guess = Plan.read(tmp_path / "guess.json")
    assert (guess.solver, guess.grid, guess.steps) == ("unipc", "uniform", 20)
    assert not (tmp_path / "plan.json").exists()


def test_a_result_says_whether_its_plan_passes():
    assert tuned(space=SMALLER).passed
    assert not tuned(space=SMALLER, max_loss=1e-9).passed


def test_phases_share_what_late_engines_have_left():
    runner, _, _ = make_runner(gaussian_model(), minutes=10.0)
    runner.estimated = Budget(seconds=500.0, sample_s=1e-6, call_s=1e-6)
    end, planned = runner.deadline(), runner.deadline(0.6)
    runner.clock.now += 60.0
    runner.begin_search()  # in time: nothing changes
    assert runner.deadline(0.6) == planned
    runner.clock.now = planned + 1.0
    runner.begin_search()
    now = runner.clock.now
    assert now < runner.deadline(0.45) < runner.deadline(0.6) < runner.deadline(0.87) < end
    assert runner.deadline() == pytest.approx(end)
    assert runner.deadline(0.7) - now == pytest.approx((end - now) / 2)
