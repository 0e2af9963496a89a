"""``hasten measure`` and ``hasten info``."""

from __future__ import annotations

import json

import torch

FAST = "solver=ddim,steps=2"


def test_measure_prints_one_json_object_per_plan(run, folder):
    status, out, _ = run(
        *("measure", folder, "--plan", FAST, "--plan", "solver=ddpm,grid=uniform,steps=3"),
        *("--json", "--n", 4, "--batch", 4, "--seconds", 0),
    )
    assert status == 0
    first, second = (json.loads(line) for line in out.splitlines())
    expected = {
        *("plan", "key", "evaluations", "rounds", "latency_ms", "throughput", "ode_error"),
        *("peak_mb", "weights_mb", "conditions"),
    }
    assert expected <= set(first)
    assert first["evaluations"] == first["rounds"] == 2
    assert first["ode_error"]["n"] == 4
    assert second["ode_error"] is None
    assert {"median", "p90", "n"} <= set(first["latency_ms"])
    assert {"device", "dtype", "threads", "torch"} <= set(first["conditions"])


def test_measure_without_json_prints_a_table_of_the_models_own_plan(run, folder):
    status, out, _ = run("measure", folder, "--n", 0, "--batch", 1, "--seconds", 0)
    assert status == 0
    assert "pics/s" in out
    assert "DPM-Solver++" in out


def test_info_describes_machine_and_model(run, folder):
    status, out, _ = run("info", folder, "--json")
    assert status == 0
    facts = json.loads(out)
    assert facts["model"]["labels"] == 3
    assert facts["model"]["pictures"] == "8x8, 1 channel(s)"
    assert facts["machine"]["torch"] == torch.__version__


def test_info_without_a_model_shows_machine_and_engines(run):
    status, out, _ = run("info")
    assert status == 0
    assert "engines" in out
    assert "eager: float32, bfloat16, float16" in out
