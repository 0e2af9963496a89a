"""Measuring and tuning on a model with a known answer."""

from __future__ import annotations

import dataclasses
import json
import math
import subprocess
import sys
import threading
import time
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import hasten
from hasten.adapters.folder import save_folder
from hasten.core.errors import UserError
from hasten.core.model import Model
from hasten.core.plan import Plan
from hasten.measuring import timer
from hasten.measuring.frechet import frechet, statistics
from hasten.measuring.memory import forget_peak, peak_mb, predicted_mb, require_memory
from hasten.measuring.ode_error import reference
from hasten.measuring.timer import once, side_by_side, summary, timed
from hasten.tuning.budget import Pace, paced
from hasten.tuning.final_selection import recommend
from hasten.tuning.journal import Trials
from hasten.tuning.page import write_report
from hasten.tuning.pareto import front
from hasten.tuning.search import ode_error_of
from hasten.tuning.space import Space
from hasten.tuning.trials import Lab
from hasten.tuning.tune import tune
from hasten.tuning.worker import Child

SMALL = Space(
    solvers=("ddim", "dpmpp(order=2)", "unipc(order=3)"),
    grids=("uniform", "karras"),
    engines=(("eager", "float32"),),
)


class GaussianNet(torch.nn.Module):
    """Exact epsilon network for data ~ Normal(0.3, 0.5^2) on the DDPM path, so ODE error is known."""

    def __init__(self) -> None:
        super().__init__()
        self.schedule = hasten.schedule("ddpm")
        self.unused = torch.nn.Parameter(torch.zeros(1))

    def forward(self, x, t, condition=None):
        level = self.schedule.at(float(t[0]))
        power = (level.alpha * 0.5) ** 2 + level.sigma**2
        x0 = 0.3 + level.alpha * 0.25 / power * (x - level.alpha * 0.3)
        return (x - level.alpha * x0) / level.sigma


@pytest.fixture(scope="module")
def exact() -> Model:
    return Model(
        net=GaussianNet(),
        schedule=hasten.schedule("ddpm"),
        prediction=hasten.prediction("epsilon"),
        shape=(1, 8, 8),
        name="gaussian",
    )


def test_the_reference_is_the_exact_solution(exact):
    held = reference(exact, 4)
    level = exact.schedule.at(999)
    spread = math.hypot(level.alpha * 0.5, level.sigma)
    solution = 0.3 + 0.5 * (held.noise * level.spread - level.alpha * 0.3) / spread
    wanted = (solution * 0.5 + 0.5).clamp(0, 1)
    # The last evaluation is at sigma = 0.01 of 0.5: the step from there to clean is first order.
    assert (held.pictures - wanted).abs().max() < 1e-3


def test_drift_falls_with_steps_and_is_none_for_plans_that_draw_noise(exact):
    held = reference(exact, 16)
    drifts = [held.ode_error(hasten.Plan(solver="ddim", steps=steps)) for steps in (4, 8, 16, 32)]
    values = [ode_error.rmse for ode_error in drifts]
    assert values == sorted(values, reverse=True)
    assert drifts[0].low < drifts[0].rmse < drifts[0].high
    assert held.ode_error(hasten.Plan(solver="ddpm", grid="uniform", steps=4)) is None
    assert held.first(3).noise.shape[0] == 3


def test_measure_reports_cost_and_conditions(exact):
    report = hasten.measure(exact, hasten.Plan(steps=3), n=4, batch=2, seconds=0.1)
    assert report.fd is None  # nothing says what real pictures look like
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


@pytest.mark.parametrize(("took", "calls"), [(0.1, 12), (1.0, 8), (3.0, 6), (40.0, 3)])
def test_slow_calls_are_timed_fewer_times(monkeypatch, took, calls):
    now, made = [0.0], []
    monkeypatch.setattr(timer, "time", types.SimpleNamespace(perf_counter=lambda: now[0]))

    def call() -> None:
        made.append(0)
        now[0] += took

    assert timed(call, repeats=20, seconds=1.0).median == pytest.approx(took)
    assert len(made) == pytest.approx(calls, abs=1)


def test_a_slow_network_is_asked_less():
    quick = Pace(budget=240.0, each=0.002, call=0.003)
    assert quick.is_quick
    assert (quick.converged, quick.few, quick.at_once(64)) == ((64, 150), 8, 64)
    slow = Pace(budget=240.0, each=0.04, call=0.05)
    assert not slow.is_quick
    n, steps = slow.converged
    assert n * steps * slow.each <= 0.15 * 240
    assert n * steps < 64 * 150
    assert 2 <= slow.few < 8
    assert slow.at_once(64) * 10 * slow.each <= 5
    assert slow.at_once(1) == 1
    with pytest.raises(UserError, match=r"takes 5 s here.* 17 minutes; give --minutes 123 or more"):
        _ = Pace(budget=240.0, each=5.0, call=6.0).converged
    assert Pace(budget=123 * 60.0, each=5.0, call=6.0).converged == (4, 50)


@pytest.mark.parametrize(
    ("overhead", "more", "asked", "each"),
    [
        (0.001, 0.001, [], 0.002),  # quick as it is
        (0.2, 0.001, [4, 16, 64], 0.0041),  # a call costs much, a picture in it little
        (0.0, 0.1, [4], 0.1),  # as much for each: 16 would take too long
        (5.0, 0.1, [], 5.1),
    ],
)
def test_many_pictures_at_a_time_are_timed_where_that_is_worth_it(overhead, more, asked, each):
    sizes = []

    class Run:
        minutes, ending, lab = 4.0, 45.0, types.SimpleNamespace(together=64)

        def ask(self, name: str, note: str, **facts: object) -> dict[str, float]:
            sizes.append(facts["batch"])
            return {"median": 1000 * (overhead + more * sizes[-1])}

    row = {"engine": "eager", "median": 1000 * (overhead + more)}
    pace = paced(Run(), row, 1.0, 1)
    assert sizes == asked
    assert pace.each == pytest.approx(each, rel=0.02)
    assert pace.call == pytest.approx(overhead + more)


def test_calls_side_by_side_are_timed_in_turn():
    order = []
    calls = [lambda: order.append("a"), lambda: order.append("b")]
    one, other = side_by_side(calls, rounds=3)
    assert order == list("abbaabba")
    assert (one.n, other.n) == (3, 3)


@pytest.mark.parametrize(("least", "rounds"), [(1, 3), (5, 5)])
def test_rounds_end_when_the_next_would_be_too_late(monkeypatch, least, rounds):
    now = [0.0]
    monkeypatch.setattr(timer, "time", types.SimpleNamespace(perf_counter=lambda: now[0]))

    def second() -> None:
        now[0] += 1.0

    one, other = side_by_side([second, second], rounds=10, seconds=6.0, least=least)
    assert (one.n, other.n) == (rounds, rounds)
    assert one.median == 1.0


def test_the_front_holds_what_nothing_beats():
    items = [(1, 5.0), (2, 3.0), (2, 4.0), (3, 3.0), (4, 1.0), (1, 6.0)]
    kept = front(items, lambda item: item[0], lambda item: item[1])
    assert kept == [(1, 5.0), (2, 3.0), (4, 1.0)]
    items = [(1, 5.0, 0.1), (2, 6.0, 0.2), (3, 6.0, 0.0), (4, 5.0, 0.1), (5, 1.0, 0.3)]
    kept = front(items, *(lambda item, i=i: item[i] for i in range(3)))
    assert kept == [(1, 5.0, 0.1), (3, 6.0, 0.0), (5, 1.0, 0.3)]


def test_frechet_distance_of_gaussians_is_the_closed_form():
    one, other = torch.diag(torch.tensor([1.0, 4.0])), torch.diag(torch.tensor([9.0, 1.0]))
    mean = torch.tensor([1.0, 2.0])
    assert frechet(mean, one, torch.zeros(2), other) == pytest.approx(5 + 4 + 1)
    rows = torch.randn(500, 3, generator=torch.Generator().manual_seed(0))
    assert frechet(*statistics(rows), *statistics(rows)) == pytest.approx(0, abs=1e-8)


def test_tuning_finds_a_plan_below_the_bar_and_writes_the_report(exact, tmp_path):
    found = tune(exact, minutes=1, max_loss=0.02, space=SMALL, out=tmp_path)
    assert found.best.key in {row["key"] for row in found.front}
    best = next(row for row in found.front if row["key"] == found.best.key)
    assert best["ode_error"]["high"] <= 0.02
    times = [row["race_ms"]["median"] for row in found.front]
    drifts = [row["ode_error"]["rmse"] for row in found.front]
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
    first = tune(exact, minutes=1, space=SMALL, out=tmp_path)
    lines = (tmp_path / "trials.jsonl").read_text().splitlines()
    second = tune(exact, minutes=1, space=SMALL, out=tmp_path)
    again = (tmp_path / "trials.jsonl").read_text().splitlines()
    assert again[: len(lines)] == lines
    known = {row["text"]: row["ode_error"] for row in second.screened}
    assert all(known[row["text"]] == row["ode_error"] for row in first.screened)


def test_too_little_time_is_one_line_that_says_how_much(exact, monkeypatch):
    import hasten.tuning.tune as module

    clock = iter(range(0, 10**6, 100))
    monkeypatch.setattr(module.time, "monotonic", lambda: float(next(clock)))
    with pytest.raises(UserError, match=r"minutes is 1, .* give \d"):
        tune(exact, minutes=1, space=SMALL)


def test_random_search_is_given_the_same_seconds(exact):
    found = tune(exact, minutes=1, space=SMALL)
    spent = sum(row["seconds"] for row in found.screened)
    assert found.random["seconds"] >= spent or found.random["share"] < 1
    assert found.random["plans"] > 0


def test_engines_that_are_not_exact_are_not_the_reference(exact):
    found = tune(exact, minutes=1, space=SMALL)
    assert [row["engine"] for row in found.engines] == ["eager"]
    assert found.reference.startswith("solver=dpmpp(order=3)")
    exported = Space(
        solvers=("ddim",),
        grids=("uniform",),
        engines=(("openvino", "float32"), ("eager", "float32")),
    )
    found = tune(exact, minutes=1, space=exported)  # its code looks at values
    assert any("cannot be exported" in one["why"] for one in found.refused)
    assert found.best.engine == "eager"


def test_a_plan_that_loses_too_much_is_never_called_good(exact):
    coarse = dataclasses.replace(SMALL, solvers=("ddim",), steps=(2, 3))
    found = tune(exact, minutes=1, max_loss=1e-6, space=coarse)
    assert "No plan's loss is below 1e-06" in found.why
    assert found.best == Plan(**min(found.finalists, key=ode_error_of)["plan"])


def test_without_real_pictures_the_whole_interval_of_the_drift_decides():
    closest = finalist(20, 0.01)
    for ode_error, wanted in [(0.04, 5), (0.06, 20), (0.047, 20)]:  # the last reaches above the bar
        rows = [closest, finalist(5, ode_error)]
        chosen, why = recommend(rows, 0.05, {"latency_ms": 1000.0}, 1)
        assert chosen["evaluations"] == wanted, why
        assert f"{1000 // wanted} times faster" in why
    chosen, why = recommend([finalist(5, 0.06), finalist(7, 0.03)], 0.05, {"latency_ms": None}, 1)
    assert chosen["evaluations"] == 7
    assert "times faster" not in why


def test_with_real_pictures_distance_and_recall_decide():
    closest = finalist(20, 0.01, worse=(0.0, 0.0))
    for other, wanted in [
        (finalist(5, 0.08, worse=(-0.2, 0.3)), 5),  # ODE error is no bar, FD not measurably worse
        (finalist(5, 0.04, worse=(0.1, 0.5)), 20),  # measurably worse
        (finalist(5, 0.04, worse=(-0.2, 0.3), recall=0.7), 20),  # measurably less diverse
        (finalist(5, 0.04, worse=(-0.2, 0.3), recall=0.8), 5),  # its interval reaches 0.88
        (finalist(5, 0.04), 20),  # nobody looked twice
        (finalist(5, None, worse=(-0.2, 0.3)), 5),  # draws noise, has no ODE error
    ]:
        chosen, why = recommend([closest, other], 0.05, {"latency_ms": 1000.0}, 1)
        assert chosen["evaluations"] == wanted, why


def test_the_plan_others_were_held_against_stays_the_measure():
    measure = {**finalist(10, 0.02, worse=(0.0, 0.0)), "faithful": True}
    luckier = finalist(8, 0.019)  # less ODE error on more pictures, but nobody looked at it twice
    rows = [measure, luckier, finalist(4, 0.06, worse=(-0.2, 0.3))]
    chosen, why = recommend(rows, 0.05, {"latency_ms": None}, 1)
    assert chosen["evaluations"] == 4, why


def finalist(
    ms: int,
    ode_error: float | None,
    worse: tuple[float, float] | None = None,
    recall: float = 0.9,
) -> dict[str, Any]:
    """A finalist's row; with ``worse``, one that was held against real pictures."""

    def estimate(value: float) -> dict[str, Any]:
        return {"value": value, "low": value * 0.9, "high": value * 1.1, "n": 2000}

    row: dict[str, Any] = {
        "plan": {"steps": ms},
        "evaluations": ms,
        "race_ms": {"median": float(ms)},
        "ode_error": None,
        "fd": None,
        "recall": None,
    }
    if ode_error is not None:
        row["ode_error"] = {
            "rmse": ode_error,
            "low": ode_error * 0.9,
            "high": ode_error * 1.1,
            "n": 64,
        }
    if worse is not None:
        row |= {"fd": estimate(1.0), "recall": estimate(recall)}
        facts = {"value": sum(worse) / 2, "low": worse[0], "high": worse[1], "n": 2000}
        row["second"] = {"fd": estimate(1.0), "recall": estimate(recall), "worse": facts}
    return row


def test_a_journal_forgets_only_the_line_that_was_cut_off(tmp_path):
    file = tmp_path / "trials.jsonl"
    one, two = {"ask": "one"}, {"ask": "two"}
    trials = Trials(file, {"model": "a"})
    trials.ask(one, lambda: 1)
    trials.ask(two, lambda: 2)
    body = file.read_bytes()
    starts = [0, *(i + 1 for i, byte in enumerate(body) if byte == 10)]
    for cut in range(len(body)):
        file.write_bytes(body[:cut])
        whole = sum(start <= cut for start in starts) - 1  # lines that are complete
        again = Trials(file, {"model": "a"})
        assert list(again.known.values()) == [1, 2][: max(whole - 1, 0)]
        again.ask(one, lambda: 1)
        again.ask(two, lambda: 2)
        assert list(Trials(file, {"model": "a"}).known.values()) == [1, 2]
    with pytest.raises(UserError, match="another"):
        Trials(file, {"model": "b"})
    file.write_text("{}\nno json\n")
    with pytest.raises(UserError, match="damaged"):
        Trials(file, {"model": "a"})


@pytest.fixture
def on_disk(tiny_model, tmp_path) -> Model:
    save_folder(tiny_model(labels=3), tmp_path / "model")
    return hasten.load(tmp_path / "model")


def test_a_killed_trial_costs_one_trial(on_disk, tmp_path):
    child = Child(Lab(model=on_disk, folder=tmp_path))
    question = {"ask": "call", "plan": Plan().model_dump(), "batch": 1}
    try:
        assert child.ask(question, 60)["apart"] == 0
        threading.Timer(1.0, lambda: child._process.kill()).start()  # type: ignore[union-attr]
        endless = {"ask": "time", "plan": Plan(steps=9999, solver="ddim").model_dump(), "batch": 64}
        died = child.ask({**endless, "seconds": 99.0, "number": 0}, 60)
        assert died == {"died": "its process was killed (SIGKILL)"}
        assert child.ask(question, 60)["apart"] == 0
        late = child.ask({**endless, "seconds": 99.0, "number": 0}, 0.5)
        assert late == {"died": "took longer than 0 s"}
        refused = child.ask(
            {**question, "plan": Plan(guidance=2.0).model_dump() | {"device": "cuda"}}, 60
        )
        assert "refused" in refused or "apart" in refused
    finally:
        child.close()


def test_a_child_process_leaves_when_its_parent_is_killed(on_disk, tmp_path):
    code = (
        "import sys, hasten\nfrom pathlib import Path\n"
        "from hasten.tuning.worker import Child\nfrom hasten.tuning.trials import Lab\n"
        "child = Child(Lab(model=hasten.load(sys.argv[1])))\nchild._start()\n"
        "print(child._process.pid, flush=True)\nimport time; time.sleep(99)\n"
    )
    command = [sys.executable, "-c", code, str(on_disk.folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        worker = int(parent.stdout.readline())
        parent.kill()
    for _ in range(100):
        if not Path(f"/proc/{worker}").exists() or "Z" in _state(worker):
            return
        time.sleep(0.1)
    raise AssertionError("the child process stayed")


def _state(process: int) -> str:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "Z"


SMALLER = dataclasses.replace(SMALL, solvers=("ddim", "unipc(order=3)"), steps=(2, 3, 4, 6))


def test_a_folder_without_labels_or_data_is_tuned_by_drift_alone(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setattr("hasten.tuning.final_selection.PROCESSES", 3)  # each takes seconds to start
    save_folder(tiny_model(), tmp_path / "model")
    model = hasten.load(tmp_path / "model")
    found = tune(model, minutes=1, max_loss=0.2, space=SMALLER, out=tmp_path / "out")
    assert found.isolated
    assert all(row["fd"] is None for row in found.finalists)
    assert found.expected is not None
    assert found.expected["low"] < found.expected["latency_ms"] < found.expected["high"]
    write_report(found, model, tmp_path / "out")
    assert "Fréchet" not in (tmp_path / "out" / "report.html").read_text()


def test_a_users_pictures_judge_a_users_model(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setattr("hasten.tuning.final_selection.PROCESSES", 1)
    monkeypatch.setattr("hasten.tuning.final_selection.statistics.stdev", lambda _: 0.0)
    monkeypatch.setattr("hasten.tuning.final_selection.GLANCE", 60)
    draw = np.random.default_rng(0)
    (tmp_path / "pictures").mkdir()
    for i in range(60):
        size = (9 + i % 3, 12, 3) if i % 2 else (12, 10)
        pixels = draw.integers(0, 255, size, dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "pictures" / f"{i}.png")
    save_folder(tiny_model(), tmp_path / "model")
    model = hasten.load(tmp_path / "model")
    found = tune(
        model,
        minutes=1,
        max_loss=0.3,
        space=SMALLER,
        data=str(tmp_path / "pictures"),
        out=tmp_path,
    )
    judged = [row for row in found.finalists if row["fd"]]
    assert judged
    assert "random convolutions" in judged[0]["features"]
    write_report(found, model, tmp_path)
    assert "random convolutions" in (tmp_path / "report.html").read_text()
    assert (
        json.loads((tmp_path / "report.json").read_text())["finalists"][0]["plan"]["device"]
        == "cpu"
    )


def test_memory_is_predicted_and_refused_when_it_will_not_fit(on_disk, monkeypatch):
    small, large = (predicted_mb(on_disk, Plan(), batch) for batch in (64, 640))
    assert small is not None
    assert large is not None
    assert 9 < large / small < 11
    guided = predicted_mb(on_disk, Plan(guidance=2.0), 64)
    assert guided is not None
    assert guided > 1.5 * small
    monkeypatch.setattr("hasten.measuring.memory.free_mb", lambda device: 2 * small)
    require_memory(on_disk, Plan(), 64)
    with pytest.raises(UserError, match=r"batch is 640, .* use 1\d\d or fewer"):
        hasten.measure(on_disk, Plan(steps=2), batch=640, n=0)


def test_the_peak_of_a_plan_is_its_own(on_disk):
    held = torch.zeros(50_000_000)
    forget_peak()
    high = peak_mb()
    del held
    forget_peak()
    assert peak_mb() < high - 100
