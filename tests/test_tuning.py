"""Measuring and tuning on a model with a known answer."""

from __future__ import annotations

import json
import math

import pytest
import torch

import hasten
from hasten.core.errors import UserError
from hasten.core.model import Model
from hasten.measuring.drift import reference
from hasten.measuring.frechet import frechet, statistics
from hasten.measuring.timer import once, side_by_side, summary, timed
from hasten.tuning.page import write_report
from hasten.tuning.pareto import front
from hasten.tuning.trials import Trials
from hasten.tuning.tune import tune


class GaussianNet(torch.nn.Module):
    """Exact epsilon network for data ~ Normal(0.3, 0.5^2) on the DDPM path, so drift is known."""

    def __init__(self) -> None:
        super().__init__()
        self.path = hasten.path("ddpm")
        self.unused = torch.nn.Parameter(torch.zeros(1))

    def forward(self, x, t, cond=None):
        level = self.path.at(float(t[0]))
        power = (level.alpha * 0.5) ** 2 + level.sigma**2
        x0 = 0.3 + level.alpha * 0.25 / power * (x - level.alpha * 0.3)
        return (x - level.alpha * x0) / level.sigma


@pytest.fixture(scope="module")
def exact() -> Model:
    return Model(
        net=GaussianNet(),
        path=hasten.path("ddpm"),
        prediction=hasten.prediction("epsilon"),
        shape=(1, 8, 8),
        name="gaussian",
    )


def test_the_reference_is_the_exact_solution(exact):
    held = reference(exact, 4)
    level = exact.path.at(999)
    spread = math.hypot(level.alpha * 0.5, level.sigma)
    solution = 0.3 + 0.5 * (held.noise * level.spread - level.alpha * 0.3) / spread
    wanted = (solution * 0.5 + 0.5).clamp(0, 1)
    # The last evaluation is at sigma = 0.01 of 0.5: the step from there to clean is first order.
    assert (held.pictures - wanted).abs().max() < 1e-3


def test_drift_falls_with_steps_and_is_none_for_plans_that_draw_noise(exact):
    held = reference(exact, 16)
    drifts = [held.drift(hasten.Plan(solver="ddim", steps=steps)) for steps in (4, 8, 16, 32)]
    values = [drift.rmse for drift in drifts]
    assert values == sorted(values, reverse=True)
    assert drifts[0].low < drifts[0].rmse < drifts[0].high
    assert held.drift(hasten.Plan(solver="ddpm", grid="uniform", steps=4)) is None
    assert held.first(3).noise.shape[0] == 3


def test_measure_reports_cost_and_conditions(exact):
    report = hasten.measure(exact, hasten.Plan(steps=3), n=4, batch=2, seconds=0)
    assert report.evaluations == 3
    assert report.latency_ms["n"] >= 5
    assert report.latency_ms["low"] <= report.latency_ms["median"] <= report.latency_ms["high"]
    assert report.throughput["batch"] == 2
    assert report.conditions["dtype"] == "float32"
    assert json.loads(report.to_json())["key"] == hasten.Plan(steps=3).key


def test_the_timer_keeps_the_first_run_apart():
    calls = []
    timing = timed(lambda: calls.append(0), repeats=7, warmup=3)
    assert (timing.n, len(calls)) == (7, 11)
    assert once(lambda: None) >= 0
    known = summary(9.0, [float(i) for i in range(1, 101)])
    assert (known.median, known.p90, known.first) == (50.5, 90.0, 9.0)
    assert (known.low, known.high) == (41.0, 61.0)


def test_calls_side_by_side_are_timed_in_turn():
    order = []
    calls = [lambda: order.append("a"), lambda: order.append("b")]
    one, other = side_by_side(calls, rounds=3)
    assert order == list("abbaabba")
    assert (one.n, other.n) == (3, 3)


def test_the_front_holds_what_nothing_beats():
    items = [(1, 5.0), (2, 3.0), (2, 4.0), (3, 3.0), (4, 1.0), (1, 6.0)]
    kept = front(items, lambda item: item[0], lambda item: item[1])
    assert kept == [(1, 5.0), (2, 3.0), (4, 1.0)]


def test_frechet_distance_of_gaussians_is_the_closed_form():
    one, other = torch.diag(torch.tensor([1.0, 4.0])), torch.diag(torch.tensor([9.0, 1.0]))
    mean = torch.tensor([1.0, 2.0])
    assert frechet(mean, one, torch.zeros(2), other) == pytest.approx(5 + 4 + 1)
    rows = torch.randn(500, 3, generator=torch.Generator().manual_seed(0))
    assert frechet(*statistics(rows), *statistics(rows)) == pytest.approx(0, abs=1e-8)


def test_tuning_finds_a_plan_below_the_bar_and_writes_the_report(exact, tmp_path):
    found = tune(exact, minutes=0.3, max_drift=0.02, out=tmp_path)
    assert found.best.key in {row["key"] for row in found.front}
    best = next(row for row in found.front if row["key"] == found.best.key)
    assert best["drift"]["high"] <= 0.02
    times = [row["latency_ms"]["median"] for row in found.front]
    drifts = [row["drift"]["rmse"] for row in found.front]
    assert times == sorted(times)
    assert drifts == sorted(drifts, reverse=True)
    write_report(found, exact, tmp_path)
    assert hasten.Plan.read(tmp_path / "plan.json") == found.best
    assert json.loads((tmp_path / "report.json").read_text())["why"] == found.why
    page = (tmp_path / "report.html").read_text()
    assert found.why in page
    assert "http://" not in page.split("<script>")[0]
    assert (tmp_path / "pictures" / f"{found.best.key}.png").exists()


def test_a_second_run_asks_nothing_again(exact, tmp_path):
    first = tune(exact, minutes=0.1, max_drift=0.05, out=tmp_path)
    lines = (tmp_path / "trials.jsonl").read_text().splitlines()
    second = tune(exact, minutes=0.1, max_drift=0.05, out=tmp_path)
    again = (tmp_path / "trials.jsonl").read_text().splitlines()
    assert again[: len(lines)] == lines
    known = {row["text"]: row for row in second.screened}
    assert all(known[row["text"]] == row for row in first.screened)


def test_too_little_time_is_one_line_that_says_how_much(exact, monkeypatch):
    import hasten.tuning.tune as module

    clock = iter(range(0, 10**6, 100))
    monkeypatch.setattr(module.time, "monotonic", lambda: float(next(clock)))
    with pytest.raises(UserError, match=r"minutes is 1, .* give \d"):
        tune(exact, minutes=1)


def test_a_journal_forgets_only_the_line_that_was_cut_off(tmp_path):
    file = tmp_path / "trials.jsonl"
    trials = Trials(file, {"model": "a"})
    trials.ask("one", lambda: 1)
    trials.ask("two", lambda: 2)
    body = file.read_bytes()
    for cut in range(1, len(body)):
        file.write_bytes(body[:-cut] if cut < 20 else body)
        again = Trials(file, {"model": "a"})
        assert again.ask("one", lambda: "lost") == 1
        assert again.ask("two", lambda: 2) == 2
        assert Trials(file, {"model": "a"}).known == {"one": 1, "two": 2}
        if cut > 20:
            break
    with pytest.raises(UserError, match="another"):
        Trials(file, {"model": "b"})
