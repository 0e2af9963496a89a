"""The report page, from invented results."""

from __future__ import annotations

import dataclasses
import re

import torch
from tuning_fakes import engine_cost, finalist, latency, trial

from hasten.core.plan import Plan
from hasten.tuning.page import page
from hasten.tuning.records import (
    Baseline,
    FreshProcessLatency,
    LayerSensitivity,
    RandomBaseline,
    UnsupportedPlan,
)
from hasten.tuning.result import Tuning
from hasten.tuning.table import cells, columns

JARGON = ("drift", "question", "asked", "refused", "race:", "walk", "glance", "told", "apart")


def invented(judged: bool = True, **changes) -> Tuning:
    """A result in which everything was measured."""
    excess = (-0.1, 0.1) if judged else None
    finalists = (finalist(4, 0.06, excess), finalist(8, 0.04, excess), finalist(9, None, excess))
    facts = {
        "model": "a <model>",
        "best": finalists[1].plan,
        "why": "The fastest plan.",
        "passed": True,
        "batch": 1,
        "front": finalists,
        "finalists": finalists,
        "engines": (engine_cost(),),
        "screened": (trial(evaluations=4), trial(evaluations=5, rmse=None)),
        "random": RandomBaseline(plans=3, seconds=1.5, share=0.5, best=trial(evaluations=5)),
        "unsupported": (UnsupportedPlan(plan=Plan(steps=77), why="It does not fit."),),
        "notes": ("feature cache: not tried, because 4 evaluations pass",),
        "layers": (LayerSensitivity(layer="conv_1", bits="w8a8", ode_error=0.01),),
        "expected": FreshProcessLatency(latency_ms=8.0, low=7.5, high=8.5, processes=4),
        "baseline": Baseline(latency_ms=2000.0, how="20 steps timed"),
        "reference": "solver=ddim",
        "reference_samples": 8,
        "seed": 0,
        "max_loss": 0.05,
        "measurements": 42,
        "seconds": 60.0,
        "random_seconds": 1.5,
        "isolated": True,
        "conditions": {"device": "cpu", "threads": 1, "torch": "2"},
    }
    return Tuning(**{**facts, **changes})


def written(tuning: Tuning) -> str:
    sheets = {one.report.key: torch.zeros(3, 8, 8) for one in tuning.front}
    return page(tuning, {**sheets, "reference": torch.zeros(3, 8, 8)}, "")


def test_the_page_says_everything_that_was_measured():
    text = written(invented())
    for words in (
        "a &lt;model&gt;",
        "42 measurements in",
        "8 steps, DPM-Solver++, log-SNR levels, PyTorch float32.",
        "hasten sample MODEL --plan OUT/plan.json --n 20 --out samples",
        'hasten.build(model, "OUT/plan.json")',
        "120 (80%)",
        "60 s; for one picture at a time",
        "In a new process it is expected to take",
        "7.5 to 8.5 ms (99% interval",
        "Fréchet distance of 2000 generated pictures",
        "conv_1",
        "It does not fit.",
        "1 plans that cannot run here",
        "2000 ms, eager float32 (20 steps timed)",
        "feature cache: not tried, because 4 evaluations pass.",
        "Random search tried 3 programs in 1.5 s of measurements (50% of what the search took",
        "takes 5 evaluations",
    ):
        assert words in text, words
    assert text.count('class="best"') == 1


def test_the_page_uses_no_word_of_our_own():
    text = re.sub(r"<style>.*?</style>|<script>.*?</script>", "", written(invented()), flags=re.S)
    assert [word for word in JARGON if word in text.lower()] == []


def test_what_was_not_measured_is_left_out_of_the_page():
    nothing = {"notes": (), "layers": (), "unsupported": (), "expected": None}
    baseline = Baseline(latency_ms=None, why="It draws noise.")
    text = written(invented(judged=False, baseline=baseline, **nothing))
    assert "It draws noise." in text
    assert "The dotted line is the bar, 0.05." in text
    for words in ("Fréchet", "cannot run here", "In a new process", "layer by layer"):
        assert words not in text


def test_a_row_of_the_table_holds_the_numbers_of_the_report():
    report = finalist(8, 0.04, (-0.1, 0.1)).report
    assert cells(report, latency(5.0), columns([report])) == (
        "8 steps, DPM-Solver++, log-SNR levels",
        "eager f32",
        "8",
        "5.0",
        "5.0",
        "100.0",
        "0.0400 ±0.0040",
        "1.00 ±0.10",
        "0.90 ±0.09",
    )
    unmeasured = finalist(8, None).report
    assert cells(unmeasured, latency(5.0), columns([unmeasured]))[-1] == ""
    noisy = dataclasses.replace(unmeasured, plan=Plan(solver="ddpm", steps=8))
    assert cells(noisy, latency(5.0), columns([noisy]))[-1] == "draws noise"
    assert cells(noisy, latency(5.0), columns([report]))[-3:] == ("draws noise", "", "")
    prompted = finalist(8, 0.04, (-0.1, 0.1), met=0.8).report
    assert columns([report, prompted])[-1] == "prompts met"
    assert cells(prompted, latency(5.0), columns([prompted]))[-1] == "0.80 ±0.08"
    assert cells(report, latency(5.0), columns([prompted]))[-1] == ""


def test_the_result_as_data_keeps_the_keys_of_the_report_file():
    body = invented().to_dict()
    row = body["finalists"][0]
    assert {"plan", "key", "latency_ms", "ode_error", "fd", "race_ms", "final_quality"} <= set(row)
    assert row["final_quality"]["excess_fd"]["low"] == -0.1
    assert row["final_quality"]["fd"]["n"] == 2000
    assert body["best"]["steps"] == 8
    assert body["screened"][0]["text"] == str(trial(evaluations=4).plan)
    assert body["unsupported"] == [{"plan": str(Plan(steps=77)), "why": "It does not fit."}]
    assert body["random"]["best"]["text"] == str(trial(evaluations=5).plan)


def test_a_program_that_random_search_alone_found_is_not_the_searchs():
    best = dataclasses.replace(trial(evaluations=5), by="random search")
    tuning = invented(
        screened=(trial(evaluations=8), best),
        random=RandomBaseline(plans=3, seconds=1.5, share=1.0, best=best),
        reference_samples=8,
    )
    assert "takes 5 evaluations" in written(tuning)
    assert re.search("the search.{1,6}s takes 8", written(tuning))
