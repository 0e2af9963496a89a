"""Cheaper network calls for the plan that leads."""

from __future__ import annotations

import dataclasses

import pytest
from tuning_fakes import REFERENCE, engine_cost, latency, make_runner, ode_error, report

import hasten
from hasten.adapters.folder import save_folder
from hasten.core.plan import Plan
from hasten.learning.compression.quantize import learn_quantize
from hasten.tuning.budget import Budget
from hasten.tuning.final_selection import FinalSelection
from hasten.tuning.network_levers import try_levers
from hasten.tuning.records import Finalist, LayerSensitivity
from hasten.tuning.requests import (
    CalibratedNetwork,
    CalibrateQuantization,
    MeasureReport,
    Race,
    TimePlans,
)
from hasten.tuning.space import smaller_networks

LAYERS = (LayerSensitivity(layer="a", bits="w8a8", ode_error=0.01),)


@pytest.fixture
def model(tiny_model, tmp_path):
    folder = tmp_path / "model"
    save_folder(tiny_model(), folder)
    return hasten.load(folder)


def selection(model, plan: Plan, ratio: float, engines) -> FinalSelection:
    """A selection with one finalist, where each variant takes ``ratio`` times as long."""

    def race(request: TimePlans) -> Race:
        hasten.build(model, request.plans[1])  # refuses what the model or plan does not support
        return Race(latencies=(latency(10.0), latency(10.0 * ratio)))

    def calibrate(request: CalibrateQuantization) -> CalibratedNetwork:
        learn_quantize(model, request.plan, request.file, n=4)
        return CalibratedNetwork(file=request.file, layers=LAYERS)

    answers = {
        TimePlans: race,
        CalibrateQuantization: calibrate,
        MeasureReport: lambda request: report(request.plan, 3, 10.0, ode_error(0.01)),
    }
    runner, _, _ = make_runner(model, answers, minutes=100.0)
    runner.estimated = Budget(seconds=6000.0, sample_s=0.002, call_s=0.003)
    made = FinalSelection(
        runner=runner, engines=engines, max_loss=0.05, reference=REFERENCE, batch=1
    )
    made.finalists = [Finalist(report=report(plan, 3, 10.0, ode_error(0.01)))]
    return made


@pytest.mark.parametrize(
    ("ratio", "engine", "here"),
    [(0.7, "openvino", True), (1.3, "openvino", True), (0.7, "eager", True), (0.7, "eager", False)],
)
def test_levers_become_finalists_where_they_are_faster(model, tmp_path, ratio, engine, here):
    plan = Plan(solver="ddim", grid="uniform", steps=3, engine=engine)
    finals = selection(model, plan, ratio, [engine_cost("openvino")] if here else [])
    pruned = dataclasses.replace(model, teacher=model.sha256, imitates=True, plans=({"steps": 3},))
    save_folder(pruned, tmp_path / "pruned")
    (name,) = smaller_networks(model)
    layers = try_levers(finals, tmp_path, [name])
    smaller, merging, torchao, eight_bits = finals.runner.notes
    assert smaller.startswith(f"smaller network {name!r}: {ratio:.2g} times as long")
    assert torchao.startswith("lever torchao")
    assert "none of eager, compile, compile-blocks was timed here" in torchao
    assert merging.startswith("lever merge")
    assert ": not possible here: " in merging
    if not here:
        assert "OpenVINO does not run this network here" in eight_bits
        assert layers == ()
        assert set(tmp_path.iterdir()) == {model.folder, tmp_path / "pruned"}
        return
    file = tmp_path / f"w8a8-{plan.key}.safetensors"
    assert file.is_file()
    assert eight_bits.startswith(f"eight bits: {ratio:.2g} times as long")
    faster = [finalist.plan for finalist in finals.finalists[1:]]
    both = [
        ((f"student(folder={name!r})",), engine),
        ((f"quantize(file={str(file)!r})",), "openvino"),
    ]
    expected = both if ratio < 1 else []
    assert [(plan.levers, plan.engine) for plan in faster] == expected
    assert layers == LAYERS
    (request,) = finals.runner.backend.of_kind(CalibrateQuantization)
    assert (request.plan, request.bits, request.max_ode_error) == (plan, "w8a8,float", 0.02)


def test_eight_bits_need_a_folder_and_time(model, tmp_path):
    plan = Plan(solver="ddim", grid="uniform", steps=3)
    finals = selection(model, plan, 0.7, [engine_cost("openvino")])
    try_levers(finals, None)
    assert finals.runner.notes[-1] == "eight bits: not tried, because no folder was given"
    finals.runner.estimated = Budget(seconds=6000.0, sample_s=100.0, call_s=100.0)
    try_levers(finals, tmp_path)
    assert "more than is left; `hasten learn quantize` does it" in finals.runner.notes[-1]
    finals.runner.clock.now = 6000.0
    try_levers(finals, tmp_path)
    assert finals.runner.notes[-1] == "eight bits: not tried, because time ran out"
    torchao = (
        "lever torchao: not tried, because none of eager, compile, compile-blocks was timed here"
    )
    assert finals.runner.notes[-3:-1] == ["lever merge: not timed, because time ran out", torchao]
    assert set(tmp_path.iterdir()) == {model.folder}


def test_levers_are_not_tried_where_no_plan_passes(model, tmp_path):
    finals = selection(model, Plan(solver="ddim", steps=3), 0.7, [engine_cost("openvino")])
    finals.max_loss = 0.001
    assert try_levers(finals, tmp_path) == ()
    assert finals.runner.notes == ["cheaper network calls: not tried, because no plan passes"]
    assert finals.runner.backend.requests == []
