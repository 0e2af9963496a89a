"""What learned programs and starts below the top are worth to the tuner: ``python -m
benchmarks.axes``.

The tuner is run with and without them on frozen weights (no students), with the same minutes; then
both recommended plans are timed in turn in one process, and their FD is compared in pairs. Each run
keeps its journal under runs/axes, so that a long one can go on.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import hasten
from benchmarks.results_io import write
from hasten.tuning.requests import CompareFd, MeasureQuality, TimePlans
from hasten.tuning.result import Tuning
from hasten.tuning.serialization import to_json
from hasten.tuning.space import Space
from hasten.tuning.trials import TrialExecutor
from hasten.tuning.tune import tune
from hasten.tuning.worker import WorkerProcess

FOLDER, MINUTES, N, ROUNDS, BATCHES = Path("runs/axes"), 4, 2000, 21, (1,)
SPACES = {
    "without": Space(students=False, programs=False, early=()),
    "with": Space(students=False),
}
MAX_LOSS = 0.05


def recommended(batch: int, name: str) -> Tuning:
    """What the tuner finds in one of the spaces."""
    out = FOLDER / f"{name}-{batch}"
    model = hasten.load("builtin:mnist")
    return tune(model, minutes=MINUTES, max_loss=MAX_LOSS, space=SPACES[name], batch=batch, out=out)


def compared(batch: int) -> dict[str, Any]:
    """Both recommended plans, side by side."""
    tunings = {name: recommended(batch, name) for name in SPACES}
    old, new = (tunings[name].best for name in SPACES)
    executor = TrialExecutor(model=hasten.load("builtin:mnist"))
    worker = WorkerProcess(executor)
    race = worker.run(TimePlans(plans=(old, new), batch=batch, rounds=ROUNDS), 600).answer
    worker.close()
    assert race is not None
    old_ms, new_ms = (latency.median for latency in race.latencies)
    quality = {
        name: to_json(executor.answer(MeasureQuality(plan=tunings[name].best, samples=N)))
        for name in SPACES
    }
    difference = CompareFd(plan=new, baseline=old, samples=N, allowed_excess=0.0)
    return {
        "batch": batch,
        "plans": {name: str(tunings[name].best) for name in SPACES},
        "ms": {"without": old_ms, "with": new_ms},
        "times_faster": old_ms / new_ms,
        "fd": {name: quality[name]["fd"] for name in SPACES},
        "recall": {name: quality[name]["recall"] for name in SPACES},
        "fd_minus_without": to_json(executor.answer(difference)),
        "skipped": list(tunings["with"].notes),
        "n": N,
    }


def main() -> None:
    what = f"the tuner with and without learned programs and starts, {MINUTES} minutes each"
    write("axes", what, [compared(batch) for batch in BATCHES])


if __name__ == "__main__":
    main()
