"""The measurements on a real model."""

from __future__ import annotations

import pytest
from tuning_fakes import REFERENCE, gaussian_model

import hasten
from hasten.core.errors import UserError
from hasten.core.plan import Plan
from hasten.levers.quantize import Quantize
from hasten.measuring.ode_error import reference
from hasten.tuning.requests import (
    CalibrateQuantization,
    MakeReference,
    MeasureQuality,
    MeasureReport,
    ReferenceSpec,
    Screen,
    TimeAlone,
    TimeNetworkCall,
    TimePlans,
)
from hasten.tuning.trials import TrialExecutor


def test_prepared_networks_make_room_where_memory_is_short(tiny_model, monkeypatch):
    executor = TrialExecutor(model=tiny_model())
    float32 = executor.prepared(Plan())
    executor.prepared(Plan(dtype="bfloat16"))
    assert executor.prepared(Plan(steps=3)) is float32
    monkeypatch.setattr("hasten.tuning.trials.free_mb", lambda _: 0.0)
    executor.prepared(Plan(dtype="float16"))
    assert executor.prepared(Plan()) is not float32


def test_screening_is_the_ode_error_of_the_first_samples():
    executor = TrialExecutor(model=gaussian_model())
    plan = Plan(solver="ddim", grid="uniform", steps=4)
    screening = executor.answer(Screen(plan=plan, samples=2, reference=REFERENCE))
    solution = reference(gaussian_model(), 8, plan=REFERENCE.plan)
    assert screening.evaluations == 4
    assert screening.ode_error == solution.first(2).ode_error(plan)
    noisy = plan.model_copy(update={"solver": "ddpm"})
    screening = executor.answer(Screen(plan=noisy, samples=2, reference=REFERENCE))
    assert (screening.evaluations, screening.ode_error) == (4, None)


def test_the_reference_is_kept_and_made_again_where_its_file_is_damaged(tmp_path):
    spec = ReferenceSpec(plan=Plan(steps=5), samples=4)

    def made():
        executor = TrialExecutor(model=gaussian_model(), folder=tmp_path)
        assert executor.answer(MakeReference(reference=spec)) == spec
        return executor.reference(spec).pictures

    first = made()
    (file,) = tmp_path.iterdir()
    body = file.read_bytes()
    assert made().equal(first)
    file.write_bytes(body[:100])
    assert made().equal(first)
    assert file.read_bytes() == body


def test_each_measurement_answers_with_its_own_record(tiny_model):
    executor = TrialExecutor(model=tiny_model(labels=3))
    plan = Plan(solver="ddim", grid="uniform", steps=2)
    cost = executor.answer(TimeNetworkCall(plan=plan, batch=2))
    assert (cost.engine, cost.dtype, cost.batch, cost.relative_error) == (
        "eager",
        "float32",
        2,
        0.0,
    )
    race = executor.answer(TimePlans(plans=(plan, Plan(steps=3)), batch=1, rounds=2))
    assert [latency.n for latency in race.latencies] == [2, 2]
    alone = executor.answer(TimeAlone(plan=plan, batch=1, seconds=0.0, repetition=0))
    assert alone.n == 1
    spec = ReferenceSpec(plan=Plan(steps=5), samples=3)
    report = executor.answer(MeasureReport(plan=plan, reference=spec, batch=2, seconds=0.0))
    assert (report.plan, report.evaluations, report.throughput.batch) == (plan, 2, 2)
    assert report.ode_error == executor.reference(spec).ode_error(plan)


@pytest.mark.slow
def test_a_calibration_writes_the_network_and_ranks_its_layers(tiny_model, tmp_path):
    model, file = tiny_model(), tmp_path / "w8a8.safetensors"
    plan = Plan(solver="ddim", grid="uniform", steps=3)
    request = CalibrateQuantization(
        plan=plan, file=str(file), bits="w8a8,float", max_ode_error=0.02
    )
    calibrated = TrialExecutor(model=model).answer(request)
    assert calibrated.file == str(file)
    assert {layer.bits for layer in calibrated.layers} <= {"w8a8", "float"}
    errors = [layer.ode_error for layer in calibrated.layers]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 0
    quantized = plan.with_lever(Quantize(file=str(file)))
    assert hasten.build(model, quantized).sample(1).isfinite().all()


def test_quality_needs_real_pictures():
    executor = TrialExecutor(model=gaussian_model())
    assert not executor.has_real_pictures
    with pytest.raises(UserError, match="ships no statistics; give data"):
        executor.answer(MeasureQuality(plan=Plan(solver="ddim", steps=2), samples=8))


def test_an_engine_whose_answers_are_wrong_is_refused(tiny_model):
    executor = TrialExecutor(model=tiny_model(), bounds={"bfloat16": 1e-9})
    with pytest.raises(UserError, match=r"relative error of .* more than 1e-09; set engine=eager"):
        executor.answer(TimeNetworkCall(plan=Plan(dtype="bfloat16"), batch=1))
