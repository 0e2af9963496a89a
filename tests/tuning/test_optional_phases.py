"""Levers that pay under conditions."""

from __future__ import annotations

import pytest
from tuning_fakes import FakeClock, gaussian_model, latency, make_runner, trial

import hasten.tuning.optional_phases as optional_phases
from hasten.core.errors import UserError
from hasten.tuning.budget import Budget
from hasten.tuning.optional_phases import try_feature_caches, try_parallel
from hasten.tuning.requests import Race, TimePlans
from hasten.tuning.search import ProgramSearch
from hasten.tuning.space import Space

FAST = Budget(seconds=240.0, sample_s=0.002, call_s=0.003)


@pytest.fixture
def model(tiny_model):
    return tiny_model()


def searched(model, evaluations: list[int]) -> ProgramSearch:
    """A search that has found plans of these numbers of evaluations, all below the bar."""
    search = ProgramSearch(
        model=model,
        space=Space(),
        guidance=1.0,
        max_loss=0.05,
        seed=0,
        pictures=(64,),
        screen=lambda plan, by, pictures: trial(plan),
        clock=FakeClock(),
    )
    search.trials += [trial(evaluations=steps) for steps in evaluations]
    return search


def test_a_feature_cache_is_not_tried_where_few_evaluations_pass(model):
    search = searched(model, [4, 20])
    assert "it pays from about 10 on" in (try_feature_caches(search, model, 1e9) or "")
    assert len(search.trials) == 2


def test_a_feature_cache_is_tried_where_many_evaluations_are_needed(model, monkeypatch):
    monkeypatch.setattr(optional_phases, "variant_macs", lambda _: {"full": 100, "cached": 20})
    search = searched(model, [12, 20])
    assert try_feature_caches(search, model, 1e9) is None
    cached = search.trials[2:]
    assert [trial.plan.levers for trial in cached] == [("deep(forecast=1, branch=0)",)] * 2
    # Every second evaluation costs a fifth: 6 + 6 / 5 and 10 + 10 / 5, in whole ones.
    assert sorted(trial.evaluations for trial in cached) == [8, 12]


@pytest.mark.parametrize(
    ("ratio", "faster", "verdict"), [(2.5, False, "it is not used"), (0.4, True, "it is tried")]
)
def test_the_tuner_says_whether_parallel_sampling_pays(ratio, faster, verdict):
    def race(request: TimePlans) -> Race:
        return Race(latencies=(latency(10.0), latency(10.0 * ratio)))

    runner, backend, _ = make_runner(gaussian_model(), {TimePlans: race})
    runner.estimated = FAST
    assert try_parallel(runner, 1.0, 1) is faster
    (note,) = runner.notes
    assert f"50 steps take {ratio:g} times as long as in order here, so {verdict}" in note
    (request,) = backend.requests
    assert [plan.executor for plan in request.plans] == ["sequential", "anderson"]


def test_a_parallel_executor_that_cannot_run_is_noted():
    def race(request: TimePlans) -> Race:
        raise UserError("it cannot be run.")

    runner, _, _ = make_runner(gaussian_model(), {TimePlans: race})
    runner.estimated = FAST
    assert try_parallel(runner, 1.0, 1) is False
    assert runner.notes == ["parallel sampling: not possible here: it cannot be run."]


def test_parallel_sampling_is_not_tried_where_that_takes_too_long():
    runner, backend, _ = make_runner(gaussian_model())
    runner.estimated = Budget(seconds=240.0, sample_s=0.2, call_s=0.5)
    assert try_parallel(runner, 1.0, 1) is False
    assert "not tried, because it takes about 250 s here" in runner.notes[0]
    assert backend.requests == []


def test_the_race_of_the_parallel_executor_can_be_carried_out(model):
    runner, backend, _ = make_runner(model)
    runner.estimated = FAST
    try_parallel(runner, 1.0, 1)
    (request,) = backend.requests
    short = TimePlans(
        plans=tuple(plan.model_copy(update={"steps": 3}) for plan in request.plans),
        batch=1,
        rounds=1,
    )
    assert len(runner.executor.answer(short).latencies) == 2
