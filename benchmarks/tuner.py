"""Does the tuner earn its keep? ``python -m benchmarks.tuner [sweep|tune|fresh|kill|write]``

Without a word all parts run in turn; each keeps its answers under runs/tuner, so that a long one
can go on. The sweep asks the ODE error on 64 pictures of every plan in the tuner's space (one
engine);
the tuner is run with three seeds, on the same weights without the features that ship with them, so
that ODE error decides in both.
"""

from __future__ import annotations

import functools
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

import hasten
from benchmarks.results_io import write
from hasten.adapters.folder import save_folder
from hasten.measuring.ode_error import reference_plan
from hasten.tuning.journal import Journal
from hasten.tuning.records import Trial
from hasten.tuning.requests import ReferenceSpec, Screen, TimePlans
from hasten.tuning.space import Space
from hasten.tuning.trials import TrialExecutor
from hasten.tuning.tune import tune
from hasten.tuning.worker import WorkerProcess, carry_out

FOLDER = Path("runs/tuner")
ENGINE, BAR, SEEDS, KILLS, FRESH = "openvino", 0.05, (0, 1, 2), 20, 5
SPACE = Space(engines=((ENGINE, "float32"),))
REFERENCE = ReferenceSpec(plan=reference_plan(engine=ENGINE), samples=64)


def model() -> hasten.Model:
    """builtin:mnist without the features beside it."""
    folder = FOLDER / "model"
    if not folder.exists():
        save_folder(hasten.load("builtin:mnist"), folder)
    return hasten.load(folder)


def sweep() -> list[Trial]:
    """Every plan of the space: ODE error on 64 samples, and the seconds that took."""
    executor = TrialExecutor(model=model())
    journal = Journal(file=FOLDER / "sweep.jsonl", subject={"model": executor.model.sha256})
    ladders, _ = SPACE.ladders(executor.model, 1.0)
    trials: list[Trial] = []
    for plan in [plan for ladder in ladders for plan in ladder.plans]:
        plan = plan.model_copy(update={"engine": ENGINE})
        request = Screen(plan=plan, samples=64, reference=REFERENCE)
        outcome = journal.outcome(request, functools.partial(carry_out, executor, request))
        if outcome.answer is None:
            raise RuntimeError(f"{plan}: {outcome.failure}")
        trials.append(
            Trial(
                plan=plan,
                evaluations=outcome.answer.evaluations,
                ode_error=outcome.answer.ode_error,
                by="step search",
                seconds=outcome.seconds,
            )
        )
        if len(trials) % 50 == 0:
            print(len(trials), str(plan), flush=True)
    return trials


def tuned(seed: int) -> dict[str, Any]:
    """The tuner's result with ``seed``, and its cost without the random baseline."""
    file = FOLDER / f"tuned-{seed}.json"
    if not file.exists():
        out = FOLDER / f"tuned-{seed}"
        found = tune(model(), minutes=4, max_loss=BAR, space=SPACE, out=out, seed=seed)
        file.write_text(json.dumps(found.to_dict()))
    return json.loads(file.read_text())


def compared() -> list[dict[str, Any]]:
    """The tuner's plans and random search's beside the sweep's best, timed in turn."""
    trials = sweep()
    cost = sum(trial.seconds for trial in trials)
    passing = [trial for trial in trials if trial.ode_error and trial.ode_error.high <= BAR]
    best = min(passing, key=lambda trial: (trial.evaluations, trial.rmse))
    swept = {str(trial.plan): trial for trial in trials}
    plans, rows = [best.plan], []
    for seed in SEEDS:
        tuning = tuned(seed)
        drawn = tuning["random"]["best"]
        random_plan = best.plan if drawn is None else hasten.Plan.of(drawn["plan"])
        plan = hasten.Plan.of(tuning["best"])
        plans += [plan, random_plan.model_copy(update={"engine": ENGINE})]
        anywhere = plan.model_copy(update={"device": None})
        again, seconds = swept.get(str(anywhere)), tuning["seconds"] - tuning["random_seconds"]
        rows.append(
            {
                "seed": seed,
                "plan": str(anywhere),
                "ode_error_in_the_sweep": None if again is None else again.rmse,
                "seconds": seconds,
                "share_of_sweep": seconds / cost,
                "random_plan": None if drawn is None else drawn["text"],
                "random_evaluations": None if drawn is None else drawn["evaluations"],
            }
        )
    worker = WorkerProcess(TrialExecutor(model=model()))
    race = worker.run(TimePlans(plans=tuple(plans), batch=1, rounds=41), 600).answer
    worker.close()
    assert race is not None
    medians = [latency.median for latency in race.latencies]
    for place, row in enumerate(rows):
        row["ms"], row["random_ms"] = medians[1 + 2 * place], medians[2 + 2 * place]
        row["slower_than_best"] = row["ms"] / medians[0] - 1
        row["random_slower_than_best"] = row["random_ms"] / medians[0] - 1
    facts = {"plans": len(trials), "seconds": cost, "best": str(best.plan), "ms": medians[0]}
    return [{"sweep": facts}, *rows]


def fresh() -> list[dict[str, Any]]:
    """The recommended plan measured again by ``hasten measure`` in processes of its own."""
    found = tuned(SEEDS[0])
    plan = FOLDER / "plan.json"
    hasten.Plan.of(found["best"]).write(plan)
    command = [sys.executable, "-m", "hasten", "measure", str(FOLDER / "model")]
    command += ["--plan", str(plan), "--n", "64", "--batch", "1", "--seconds", "1", "--json"]
    low, high = (found["expected"][name] for name in ("low", "high"))
    best = next(row for row in found["finalists"] if row["plan"] == found["best"])
    rows = []
    for _ in range(FRESH):
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        again = json.loads(done.stdout)
        inside = low <= again["latency_ms"]["median"] <= high
        ode_error = again["ode_error"]["rmse"]
        inside = inside and best["ode_error"]["low"] <= ode_error <= best["ode_error"]["high"]
        facts = {"ms": again["latency_ms"]["median"], "ode_error": ode_error, "inside": inside}
        rows.append({**facts, "ms_interval": [low, high]})
    return rows


def kill() -> list[dict[str, Any]]:
    """A tuning of the model, killed with all its processes at a random moment after each further
    finished trial; every line of the journal that was finished must still be there at the end."""
    out, draw = FOLDER / "killed", random.Random(0)
    journal = out / "trials.jsonl"
    command = [sys.executable, "-m", "hasten", "tune", str(FOLDER / "model"), "--quiet"]
    command += ["--minutes", "2", "--out", str(out)]
    seen: list[str] = []
    lost = 0
    for _ in range(KILLS):
        process = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL)
        grown, late = len(seen), time.monotonic() + 120
        while len(_lines(journal)) <= grown and process.poll() is None and time.monotonic() < late:
            time.sleep(0.05)
        time.sleep(draw.uniform(0, 3))
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        lines = _lines(journal)
        lost += sum(line not in set(lines) for line in seen)
        seen = lines
        print(len(seen), "finished trials,", lost, "lost", flush=True)
    return [{"kills": KILLS, "finished_trials": len(seen) - 1, "lost": lost}]


def _lines(journal: Path) -> list[str]:
    return journal.read_text().split("\n")[:-1] if journal.exists() else []


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(torch.get_num_threads())
    parts = {"sweep": sweep, "tune": lambda: [tuned(seed) for seed in SEEDS]}
    if sys.argv[1:2] and sys.argv[1] in parts:
        parts[sys.argv[1]]()
        return
    rows = [{"part": "search", "rows": compared()}]
    rows += [{"part": "fresh", "rows": fresh()}, {"part": "kill", "rows": kill()}]
    write("tuner", "the tuner beside an exhaustive sweep and random search", rows)


if __name__ == "__main__":
    main()
