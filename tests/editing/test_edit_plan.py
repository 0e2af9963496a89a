"""Edit plans: what a file says, and what is refused."""

from __future__ import annotations

import json

import pytest

import hasten
from hasten.core.errors import UserError
from hasten.editing.edit_plan import EditPlan
from hasten.editing.stream import Streaming

PLAN = hasten.Plan(solver="dpmpp(order=2)", grid="uniform", steps=4, guidance=2)


def test_an_edit_plan_is_read_as_it_was_written(tmp_path):
    plan = EditPlan(method="sdedit( strength = 0.5 )", every=8, similar=0.002, depth=3, plan=PLAN)
    plan.write(tmp_path / "plan.json")
    assert EditPlan.read(tmp_path / "plan.json") == plan
    assert plan.method == "sdedit(strength=0.5)"
    assert plan.streaming == Streaming(every=8, similar=0.002, depth=3)
    EditPlan().write(tmp_path / "empty.json")
    assert EditPlan.read(tmp_path / "empty.json") == EditPlan()


def test_a_plan_of_samples_is_an_edit_plan_with_the_default_method(tmp_path):
    PLAN.write(tmp_path / "plan.json")
    (tmp_path / "plan.yaml").write_text("solver: ddim\nsteps: 7\n")
    assert EditPlan.read(tmp_path / "plan.json") == EditPlan(plan=PLAN)
    assert EditPlan.read(str(PLAN)) == EditPlan(plan=PLAN)
    assert EditPlan.read(tmp_path / "plan.yaml").plan == hasten.Plan(solver="ddim", steps=7)


def test_fields_are_checked_when_they_change():
    assert EditPlan(plan=PLAN).with_fields(every=4) == EditPlan(every=4, plan=PLAN)
    with pytest.raises(UserError, match="every"):
        EditPlan(plan=PLAN).with_fields(every=0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": 2}, "is of version 2, and this hasten reads version 1"),
        ({"method": "telepathy"}, "editing method 'telepathy' is unknown"),
        ({"method": "sdedit(strength=2)"}, "method option strength is 2"),
        ({"every": 0}, "every"),
        ({"similar": 2}, "similar"),
        ({"depth": 1.5}, "depth"),
        ({"speed": 9}, "'speed' is unknown"),
        ({"plan": {"steps": 0}}, "steps"),
    ],
)
def test_what_is_wrong_with_a_file_is_named_in_one_line(tmp_path, changes, message):
    EditPlan(plan=PLAN).write(tmp_path / "plan.json")
    body = json.loads((tmp_path / "plan.json").read_text())
    (tmp_path / "plan.json").write_text(json.dumps({**body, **changes}))
    with pytest.raises(UserError, match=message) as refusal:
        EditPlan.read(tmp_path / "plan.json")
    assert "\n" not in str(refusal.value)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UserError, match="nowhere"):
        EditPlan.read(tmp_path / "nowhere.json")
