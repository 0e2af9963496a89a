"""What the tuner asks about beside solver, grid, steps and engine."""

from __future__ import annotations

import dataclasses
import time
from types import SimpleNamespace
from typing import Any

import pytest

import hasten
import hasten.tuning.optional_phases as conditional
from hasten import Plan, UserError
from hasten.adapters.folder import save_folder
from hasten.learning.starts.starts import learn_start
from hasten.measuring.macs import Costs
from hasten.tuning.budget import Pace
from hasten.tuning.final_selection import Finals, _levels
from hasten.tuning.network_levers import try_cheaper
from hasten.tuning.optional_phases import Parallel, ask_parallel, try_reuse
from hasten.tuning.search import Search
from hasten.tuning.space import Refused, Space, beside, distilled, imitators
from hasten.tuning.trials import Lab


@pytest.fixture
def model(tiny_model, tmp_path):
    folder = tmp_path / "model"
    save_folder(tiny_model(), folder)
    return hasten.load(folder)


def searched(model, evaluations: list[int], answers: bool = True) -> Search:
    """A search that has found plans with these numbers of evaluations, all below the bar."""

    def ask(plan: Plan, by: str) -> Any:
        row = {"text": str(plan), "plan": plan.model_dump(), "by": by, "seconds": 0.1}
        return {**row, "evaluations": plan.steps, "ode_error": {"rmse": 0.01}} if answers else None

    search = Search(model=model, space=Space(), guidance=1.0, bar=0.05, seed=0, ask=ask)
    for steps in evaluations:
        plan = Plan(solver="ddim", grid="uniform", steps=steps)
        search.rows.append({**(ask(plan, "lines") or {}), "evaluations": steps})
    return search


def test_walks_from_the_gaussians_beside_a_model_are_considered(model):
    assert Space().early_starts(model, 1.0) == []
    learn_start(model, "gaussian", model.folder / "starts" / "gaussian.safetensors", n=60)
    (name,) = beside(model, "starts", "*.safetensors")
    plans = Space(grids=("uniform",), steps=(2, 5)).early_starts(model, 1.0)
    assert {plan.steps for plan in plans} == {2, 5}
    assert all(f"file={name!r}" in plan.start for plan in plans)
    hasten.build(model, plans[0]).sample(1)


def test_what_was_not_screened_is_glanced_at_on_every_level():
    screened = [
        {"evaluations": 3, "ode_error": {"rmse": 0.01 * k}, "text": str(k)} for k in range(1, 6)
    ]
    others = [
        {"evaluations": 3, "ode_error": None, "text": "early", "plan": {}},
        {"evaluations": 9, "ode_error": None, "text": "dear", "plan": {}},
        {"evaluations": 1, "ode_error": None, "text": "student", "plan": {"student": "beside"}},
    ]
    found = _levels(screened, others)
    assert [row["text"] for row in found[3]] == ["1", "2", "3", "early"]
    assert {level: len(rows) for level, rows in found.items()} == {3: 4, 1: 1}


def test_students_beside_the_folder_of_their_teacher_are_considered(model):
    assert distilled(model, 1.0) == []
    fields = {"solver": "ddim", "grid": "uniform", "steps": 1}
    kind = {"teacher": model.sha256, "plans": (fields, {**fields, "steps": 2}), "name": "quick"}
    save_folder(dataclasses.replace(model, **kind), model.folder.parent / "quick")
    save_folder(
        dataclasses.replace(model, **{**kind, "teacher": "0" * 64}), model.folder.parent / "other"
    )
    plans = distilled(model, 1.0)
    assert [plan.steps for plan in plans] == [1, 2]
    assert {plan.student for plan in plans} == {str(model.folder.parent / "quick")}
    assert distilled(model, 2.0) == []  # students know no guidance
    held = Lab(model=model)
    assert hasten.build(model, plans[0]).evaluations == 1
    against = {"plan": Plan(steps=20).model_dump(), "n": 8}
    answer = held.ode_error(plans[0].model_dump(), 8, against)
    assert answer["evaluations"] == 1


def test_reuse_is_not_asked_about_where_few_evaluations_pass(model):
    search = searched(model, [4, 20])
    assert "pays from about 10" in (try_reuse(search, model) or "")
    assert len(search.rows) == 2


def test_reuse_is_asked_about_where_many_evaluations_are_needed(model, monkeypatch):
    monkeypatch.setattr(conditional, "costs", lambda *_: Costs(full=100, part=20))
    search = searched(model, [12, 20])
    assert try_reuse(search, model) is None
    found = [row for row in search.rows if row["by"] == "reuse"]
    assert [row["plan"]["reuse"] for row in found] == ["deep(forecast=1, branch=0)"] * 2
    # Every second evaluation costs a fifth: 6 + 6 / 5 and 10 + 10 / 5, in whole ones.
    assert sorted(row["evaluations"] for row in found) == [8, 12]


QUICK = Pace(budget=240.0, each=0.002, call=0.003)


class Run:
    """Answers a race as if the parallel run took ``times`` as long as the one in order."""

    pace = QUICK

    def __init__(self, times: float | None) -> None:
        self.times, self.plans = times, []

    def ask(self, name: str, note: str, **facts: Any) -> Any:
        self.plans = facts["plans"]
        if self.times is None:
            return None
        return {"timings": [{"median": 10.0}, {"median": 10.0 * self.times}]}


@pytest.mark.parametrize(("times", "pays"), [(2.5, False), (0.4, True)])
def test_the_tuner_says_whether_parallel_sampling_pays(times, pays):
    run = Run(times)
    found = ask_parallel(run, 1.0, 1)
    assert isinstance(found, Parallel)
    assert found.pays is pays
    assert ("not used" in found.why) is not pays
    assert [Plan(**plan).executor for plan in run.plans] == ["sequential", "anderson"]
    assert ask_parallel(Run(None), 1.0, 1) is None


def test_parallel_sampling_is_not_tried_where_that_takes_too_long():
    run = Run(0.4)
    run.pace = Pace(budget=240.0, each=0.2, call=0.5)
    found = ask_parallel(run, 1.0, 1)
    assert found is not None
    assert "not tried, as that takes about 250 s here" in found.why
    assert not found.pays
    assert run.plans == []


def test_the_race_of_the_parallel_run_is_a_real_question(model):
    lab = Lab(model=model)

    class Asked:
        pace = QUICK

        def ask(self, name: str, note: str, **facts: Any) -> Any:
            return lab.answer({"ask": name, **facts})

    found = ask_parallel(Asked(), 1.0, 1)
    assert found is not None
    assert found.times > 0


def slow(**more: Any) -> Any:
    """A tuner's run in which an evaluation takes a second, and ten seconds are left."""
    facts = {"pace": Pace(budget=240.0, each=1.0, call=1.0), "skipped": [], "ending": 48.0, **more}
    return SimpleNamespace(
        until=lambda _: time.monotonic() + 10, end=time.monotonic() + 10, **facts
    )


def test_pictures_are_not_judged_where_that_takes_too_long(monkeypatch):
    finals = Finals(run=slow(), engines=[], max_loss=0.05, against={}, batch=1)
    asked = []
    monkeypatch.setattr(Finals, "by_drift", lambda _, screened: asked.append(screened))
    screened = [{"evaluations": 3, "ode_error": {"rmse": 0.01}}]
    finals.by_distance(screened, [])
    assert asked == [screened]
    assert "FD: 500 pictures take about 1500 s here" in finals.run.skipped[0]


@pytest.mark.parametrize(("took", "asked"), [(0.1, 3), (5.0, 0)])
def test_fresh_processes_are_as_many_as_there_is_time_for(took, asked):
    numbers = []

    def ask(name: str, note: str, number: int, **facts: Any) -> Any:
        numbers.append(number)
        return {"median": 1000 * took}

    run = slow(ask=ask, fresh=lambda: None)
    run.end = 0.0  # the budget is spent
    finals = Finals(run=run, engines=[], max_loss=0.05, against={}, batch=1)
    plan = Plan(solver="ddim", steps=3)
    finals.rows = [{"plan": plan.model_dump(), "latency_ms": {"median": 1000 * took}}]
    found = finals.confirm(plan)
    assert len(numbers) == asked
    assert (found or {}).get("processes", 0) == asked
    assert ("time was too short" in "".join(run.skipped)) == (asked == 0)


def test_slow_plans_race_fewer_rounds():
    finals = Finals(run=slow(), engines=[], max_loss=0.05, against={}, batch=1)
    assert [finals.racing(took)["least"] for took in (1.0, 20.0, 500.0)] == [5, 2, 1]


def test_prepared_networks_make_room_where_memory_is_short(model, monkeypatch):
    lab = Lab(model=model)
    lab._net(Plan())
    lab._net(Plan(dtype="bfloat16"))
    assert len(lab._nets) == 2
    monkeypatch.setattr("hasten.tuning.trials.free_mb", lambda _: 0.0)
    lab._net(Plan(dtype="float16"))
    assert len(lab._nets) == 1


def test_where_it_pays_the_dear_finalists_are_reported_in_parallel_too():
    class Reports:
        lab = None

    finals = Finals(run=Reports(), engines=[], max_loss=0.05, against={}, batch=1)
    dear = Plan(solver="ddim", grid="uniform", steps=20)
    cheap = Plan(solver="ddim", grid="uniform", steps=4)
    rows = [
        {"plan": plan.model_dump(), "evaluations": plan.steps, "fd": 1, "second": {"fd": 2}}
        for plan in (dear, cheap)
    ]
    finals.rows = list(rows)
    asked = []

    def report(plan: Plan, engine: Any) -> Any:
        asked.append(plan)
        finals.rows.append({"plan": plan.model_dump(), "evaluations": 70.0})
        return finals.rows[-1]

    finals._report = report  # type: ignore[method-assign]
    finals.in_parallel()
    assert [(plan.steps, plan.executor) for plan in asked] == [(20, "anderson")]
    assert finals.rows[-1]["second"] == {"fd": 2}


@pytest.mark.parametrize(
    ("times", "engine", "here"),
    [(0.7, "openvino", True), (1.3, "openvino", True), (0.7, "eager", True), (0.7, "eager", False)],
)
def test_eight_bits_are_tried_where_they_are_faster(
    model, tmp_path, monkeypatch, times, engine, here
):
    class Asked:
        lab, refused, pace, ending = Lab(model=model), [], QUICK, 45.0

        def until(self, share: str) -> float:
            return float("inf")

        def ask(self, name: str, note: str, **facts: Any) -> Any:
            if name == "quantize":
                return self.lab.answer({"ask": name, **facts})
            if name == "race":
                try:
                    hasten.build(self.lab.model, Plan(**facts["plans"][1]))
                except UserError as error:
                    self.refused.append(Refused(Plan(), str(error)))
                    return None
                return {"timings": [{"median": 10.0}, {"median": 10.0 * times}]}
            assert name == "report"
            return report(facts["plan"])

    def report(plan: dict[str, Any]) -> dict[str, Any]:
        found = {"plan": plan, "evaluations": 3, "ode_error": {"rmse": 0.01, "high": 0.01}}
        return {**found, "latency_ms": {"median": 10.0}, "fd": None, "recall": None}

    plan = Plan(solver="ddim", grid="uniform", steps=3, engine=engine)
    able = [{"engine": "openvino", "dtype": "float32"}] if here else []
    finals = Finals(run=Asked(), engines=able, max_loss=0.05, against={}, batch=1)
    finals.rows = [report(plan.model_dump())]
    pruned = dataclasses.replace(model, teacher=model.sha256, imitates=True, plans=({"steps": 3},))
    save_folder(pruned, tmp_path / "pruned")
    (name,) = imitators(model)
    (*others, why), layers = try_cheaper(finals.run, finals, tmp_path, [name])
    assert "pruned" in others[0]
    assert f"{times:.2g} times as long" in others[0]
    assert "torchao" in others[1]
    assert "drop merge" in others[2]
    if not here:
        assert "tried in OpenVINO" in why
        assert layers == []
        assert set(tmp_path.iterdir()) == {model.folder, tmp_path / "pruned"}
        return
    file = tmp_path / f"w8a8-{plan.key}.safetensors"
    assert file.is_file()
    assert f"{times:.2g} times as long" in why
    faster = [Plan(**row["plan"]) for row in finals.rows[1:]]
    wanted = [(None, name, engine), (str(file), None, "openvino")] if times < 1 else []
    assert [(one.quantize, one.student, one.engine) for one in faster] == wanted
    assert {one["bits"] for one in layers} <= {"w8a8", "float"}
    assert layers[0]["ode_error"] == max(one["ode_error"] for one in layers) > 0
    eager = plan.model_copy(update={"engine": "eager", "quantize": str(file)})
    assert hasten.build(model, eager).sample(1).isfinite().all()
    assert "no folder" in try_cheaper(finals.run, finals, None)[0][-1]
    finals.run.pace = Pace(budget=240.0, each=1.0, call=1.0)
    monkeypatch.setattr(Asked, "until", lambda *_: time.monotonic() + 60)
    why = try_cheaper(finals.run, finals, tmp_path)[0][-1]
    assert "more than is left" in why
    assert "hasten learn quantize" in why
