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
from hasten.tuning.space import Space
from hasten.tuning.trials import Lab
from hasten.tuning.tune import tune
from hasten.tuning.worker import Child

FOLDER, MINUTES, N, ROUNDS, BATCHES = Path("runs/axes"), 4, 2000, 21, (1,)
SPACES = {
    "without": Space(students=False, programs=False, early=()),
    "with": Space(students=False),
}
MAX_LOSS = 0.05


def recommended(batch: int, name: str) -> dict[str, Any]:
    """What the tuner finds in one of the spaces."""
    out = FOLDER / f"{name}-{batch}"
    model = hasten.load("builtin:mnist")
    found = tune(
        model, minutes=MINUTES, max_loss=MAX_LOSS, space=SPACES[name], batch=batch, out=out
    )
    return {"plan": found.best.model_dump(), "why": found.why, "skipped": found.skipped}


def compared(batch: int) -> dict[str, Any]:
    """Both recommended plans, side by side."""
    found = {name: recommended(batch, name) for name in SPACES}
    plans = [found[name]["plan"] for name in SPACES]
    lab = Lab(model=hasten.load("builtin:mnist"))
    child = Child(lab)
    race = child.ask({"ask": "race", "plans": plans, "batch": batch, "rounds": ROUNDS}, 600)
    child.close()
    old, new = (timing["median"] for timing in race["timings"])
    quality = [lab.quality(plan, N) for plan in plans]
    return {
        "batch": batch,
        "plans": {name: str(hasten.Plan(**found[name]["plan"])) for name in SPACES},
        "ms": {"without": old, "with": new},
        "times_faster": old / new,
        "fd": {name: one["fd"] for name, one in zip(SPACES, quality, strict=True)},
        "recall": {name: one["recall"] for name, one in zip(SPACES, quality, strict=True)},
        "fd_minus_without": lab.worse(plans[1], plans[0], N, 0.0),
        "skipped": found["with"]["skipped"],
        "n": N,
    }


def main() -> None:
    what = f"the tuner with and without learned programs and starts, {MINUTES} minutes each"
    write("axes", what, [compared(batch) for batch in BATCHES])


if __name__ == "__main__":
    main()
