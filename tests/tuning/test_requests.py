"""Requests, answers and outcomes as JSON."""

from __future__ import annotations

import json
import math

import pytest
from tuning_fakes import REFERENCE, engine_cost, ode_error, quality, report

from hasten.core.errors import UserError
from hasten.core.plan import Plan
from hasten.tuning.records import EngineCost
from hasten.tuning.requests import (
    REQUESTS,
    CalibrateQuantization,
    CompareFd,
    MakeReference,
    MeasureQuality,
    MeasureReport,
    Outcome,
    Screen,
    TimeAlone,
    TimeNetworkCall,
    TimePlans,
    outcome_from_json,
    outcome_to_json,
    request_from_json,
    request_to_json,
)
from hasten.tuning.serialization import from_json, to_json

PLAN = Plan(solver="ddim", steps=3, clip=1.0)
ALL = [
    TimeNetworkCall(plan=PLAN, batch=4),
    MakeReference(reference=REFERENCE),
    Screen(plan=PLAN, samples=2, reference=REFERENCE),
    MeasureReport(plan=PLAN, reference=REFERENCE, batch=4, seconds=0.5),
    MeasureQuality(plan=PLAN, samples=100),
    CompareFd(plan=PLAN, baseline=Plan(), samples=100, allowed_excess=0.05),
    TimePlans(plans=(PLAN, Plan()), batch=1, rounds=5),
    TimeAlone(plan=PLAN, batch=1, seconds=1.0, repetition=0),
    CalibrateQuantization(plan=PLAN, file="a", bits="w8a8,float", max_ode_error=0.02),
]


def test_every_kind_of_request_survives_json():
    assert {request.kind for request in ALL} == set(REQUESTS)
    for request in ALL:
        assert request_from_json(json.loads(json.dumps(request_to_json(request)))) == request


@pytest.mark.parametrize(
    ("request_", "answer"),
    [
        (ALL[0], engine_cost()),
        (ALL[3], report(PLAN, 3, 6.0, ode_error(0.1))),
        (ALL[3], report(PLAN, 2.5, 6.0)),
        (ALL[4], quality(1.0, None)),
    ],
)
def test_answers_survive_json(request_, answer):
    outcome = Outcome(answer=answer, seconds=0.25)
    body = json.loads(json.dumps(outcome_to_json(outcome)))
    assert outcome_from_json(request_, body) == outcome


def test_an_unbounded_interval_survives_json():
    unbounded = ode_error(0.1).__class__(rmse=0.1, low=0.0, high=math.inf, n=1, reference="a")
    answer = report(PLAN, 3, 6.0, unbounded)
    body = json.loads(json.dumps(outcome_to_json(Outcome(answer=answer))))
    assert outcome_from_json(ALL[3], body).answer == answer


def test_a_field_of_the_wrong_type_is_named():
    cost, body = to_json(engine_cost()), request_to_json(ALL[2])
    with pytest.raises(UserError, match="EngineCost field 'batch'"):
        from_json(EngineCost, {**cost, "batch": "x"})
    with pytest.raises(UserError, match="Screen field 'plan': plan field 'steps' is 0"):
        request_from_json({**body, "plan": {**body["plan"], "steps": 0}})
