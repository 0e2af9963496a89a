"""tune() with processes of their own and real timings; counts bound it, not the clock."""

from __future__ import annotations

import dataclasses
import json

import filelock
import numpy as np
import pytest
from PIL import Image
from tuning_fakes import QUICK, SMALLER

import hasten
from hasten.adapters.folder import save_folder
from hasten.core.errors import UserError
from hasten.tuning.page import write_report
from hasten.tuning.tune import lock_of, tune

LONG = 1000.0  # minutes: the settings below end every phase long before
FAST = dataclasses.replace(
    QUICK,
    reference_sizes=((4, 20),),
    baseline_steps=2,
    report_s=0.0,
    fresh_process_s=0.0,
    parallel_s=0.0,
    parallel_steps=5,
    parallel_rounds=1,
)
FEW = dataclasses.replace(SMALLER, solvers=("ddim",), grids=("uniform",), steps=(2, 3), noisy=())


@pytest.mark.slow
def test_a_folder_without_labels_or_data_is_tuned_by_ode_error_alone(tiny_model, tmp_path):
    save_folder(tiny_model(), tmp_path / "model")
    model, out = hasten.load(tmp_path / "model"), tmp_path / "out"
    settings = dataclasses.replace(FAST, fresh_processes=3)
    tuning = tune(model, minutes=LONG, max_loss=0.2, space=FEW, out=out, settings=settings)
    assert tuning.isolated
    assert all(finalist.report.fd is None for finalist in tuning.finalists)
    assert tuning.expected is not None
    assert tuning.expected.processes == 3
    assert tuning.expected.low < tuning.expected.latency_ms < tuning.expected.high
    write_report(tuning, model, out)
    assert "Fréchet" not in (out / "report.html").read_text()
    lines = (out / "trials.jsonl").read_text().splitlines()
    again = tune(model, minutes=LONG, max_loss=0.2, space=FEW, out=out, settings=settings)
    assert again.best == tuning.best
    assert (out / "trials.jsonl").read_text().splitlines() == lines  # nothing is measured again


@pytest.mark.slow
def test_a_users_pictures_judge_a_users_model(tiny_model, tmp_path):
    draw = np.random.default_rng(0)
    (tmp_path / "pictures").mkdir()
    for i in range(60):
        size = (9 + i % 3, 12, 3) if i % 2 else (12, 10)
        pixels = draw.integers(0, 255, size, dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "pictures" / f"{i}.png")
    save_folder(tiny_model(), tmp_path / "model")
    model = hasten.load(tmp_path / "model")
    tuning = tune(
        model,
        minutes=LONG,
        max_loss=0.3,
        space=FEW,
        data=str(tmp_path / "pictures"),
        out=tmp_path,
        settings=dataclasses.replace(
            FAST, fresh_processes=0, screening_samples=60, final_samples=(60,)
        ),
    )
    judged = [finalist.report for finalist in tuning.finalists if finalist.report.fd]
    assert judged
    assert "random convolutions" in judged[0].features
    assert {report.fd.n for report in judged} == {60}
    write_report(tuning, model, tmp_path)
    assert "random convolutions" in (tmp_path / "report.html").read_text()
    body = json.loads((tmp_path / "report.json").read_text())
    assert {row["plan"]["device"] for row in body["finalists"]} == {"cpu"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"minutes": 0}, "minutes is 0; it takes a number from 0.05"),
        ({"max_loss": -1}, "max_loss is -1"),
        ({"batch": 0}, "batch is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"guidance": -1.0}, "plan field 'guidance' is -1"),
    ],
)
def test_arguments_out_of_range_are_named(tiny_model, options, message):
    with pytest.raises(UserError, match=message):
        tune(tiny_model(), **options)


def test_two_tuners_do_not_write_to_one_folder(tiny_model, tmp_path):
    with (
        filelock.FileLock(lock_of(tmp_path)),
        pytest.raises(UserError, match="another `hasten tune` writes to"),
    ):
        tune(tiny_model(), minutes=1.0, out=tmp_path)
    assert not (tmp_path / "trials.jsonl").exists()
