"""The race of the finalists, and the winner in fresh processes."""

from __future__ import annotations

import dataclasses
import math

import pytest
from tuning_fakes import REFERENCE, gaussian_model, latency, make_runner, report

from hasten.core.errors import UserError
from hasten.core.plan import Plan
from hasten.tuning.budget import Budget
from hasten.tuning.final_selection import FinalSelection
from hasten.tuning.final_timing import latency_in_fresh_processes, prediction_interval, race
from hasten.tuning.records import Finalist
from hasten.tuning.requests import Race, TimeAlone, TimePlans
from hasten.tuning.settings import TunerSettings

PLAN = Plan(solver="ddim", steps=3)


def selection(answers, milliseconds: float = 3.0, **settings) -> FinalSelection:
    runner, _, _ = make_runner(gaussian_model(), answers, settings=TunerSettings(**settings))
    runner.estimated = Budget(seconds=240.0, sample_s=0.001, call_s=0.001)
    made = FinalSelection(runner=runner, engines=[], max_loss=0.05, reference=REFERENCE, batch=1)
    made.finalists = [Finalist(report=report(PLAN, 3, milliseconds))]
    return made


def test_the_published_sampler_is_timed_in_turn_with_the_finalists():
    def answer(request: TimePlans) -> Race:
        return Race(latencies=tuple(latency(plan.steps) for plan in request.plans))

    finalists, baseline = race(selection({TimePlans: answer}), 1.0)
    assert [finalist.race_ms for finalist in finalists] == [latency(3)]
    assert baseline.latency_ms == 20 * 1000 / 20  # 20 of its 1000 steps took 20 ms
    assert baseline.how == "20 of its steps timed in turn with the plans, n = 9"


def test_a_model_that_cannot_run_the_published_sampler_is_raced_without_it():
    def answer(request: TimePlans) -> Race:
        if any(plan.solver == "ddpm" for plan in request.plans):
            raise UserError("it draws noise.")
        return Race(latencies=tuple(latency(7.0) for _ in request.plans))

    finals = selection({TimePlans: answer})
    finalists, baseline = race(finals, 1.0)
    assert finalists[0].race_ms == latency(7.0)
    assert (baseline.latency_ms, baseline.why) == (None, "it draws noise.")
    assert finals.runner.unsupported == []


@pytest.mark.parametrize(
    ("seconds", "now", "processes", "note"),
    [
        (0.1, 0.0, 5, ""),
        (0.1, 241.0, 0, "not known, because there was time for 0 of 3"),
        (5.0, 0.0, 0, "not measured, too little time"),
    ],
    ids=["in time", "the budget is spent", "a slow plan"],
)
def test_fresh_processes_are_as_many_as_there_is_time_for(seconds, now, processes, note):
    answers = {TimeAlone: lambda request: latency(1000 * seconds)}
    finals = selection(answers, milliseconds=1000 * seconds)
    finals.runner.clock.now = now
    expected = latency_in_fresh_processes(finals, PLAN)
    asked = finals.runner.backend.of_kind(TimeAlone)
    assert [request.repetition for request in asked] == list(range(processes))
    assert finals.runner.backend.closed == processes
    assert (expected.processes if expected else 0) == processes
    assert [said.partition(": ")[2] for said in finals.runner.notes] == ([note] if note else [])


def test_with_time_left_all_fresh_processes_are_used():
    finals = selection({TimeAlone: lambda request: latency(3.0)})
    expected = latency_in_fresh_processes(finals, PLAN)
    assert expected is not None
    assert expected.processes == 5


def test_the_prediction_interval_is_that_of_the_log_normal():
    medians = [10.0, 11.0, 12.5, 9.0]
    expected = prediction_interval(medians, 0.02)
    logs = [math.log(median) for median in medians]
    middle = sum(logs) / 4
    spread = math.sqrt(sum((value - middle) ** 2 for value in logs) / 3)
    half = 5.841 * spread * math.sqrt(1.25)  # Student's t of 3 degrees of freedom, 99%
    assert expected.latency_ms == pytest.approx(math.exp(middle), rel=1e-4)
    assert expected.low == pytest.approx(math.exp(middle - half), rel=1e-4)
    assert expected.high == pytest.approx(math.exp(middle + half), rel=1e-4)
    same = prediction_interval([10.0] * 3, 0.02)
    assert same.high / same.latency_ms == pytest.approx(
        math.exp(9.925 * 0.02 * math.sqrt(4 / 3)), rel=1e-4
    )


@pytest.mark.parametrize(("p90", "said"), [(3.5, False), (9.0, True)])
def test_a_machine_whose_speed_changes_is_said_to(p90, said):
    def answer(request: TimePlans) -> Race:
        return Race(latencies=(dataclasses.replace(latency(3.0), p90=p90), latency(20.0)))

    finals = selection({TimePlans: answer})
    race(finals, 1.0)
    assert [note.partition(" changed")[0] for note in finals.runner.notes] == (
        ["timing: this machine's speed"] if said else []
    )
