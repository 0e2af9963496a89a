"""``hasten tune``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from hasten.cli.options import NOTHING, Device, Json, ModelName, Quiet, Request, model_of
from hasten.core.errors import NoPlanPasses

if TYPE_CHECKING:
    from hasten.tuning.result import Tuning


def tune(
    model: ModelName = "builtin:mnist",
    *,
    minutes: float = 5.0,
    max_loss: float = 0.05,
    data: str | None = None,
    features: str | None = None,
    guidance: float | None = None,
    batch: int = 1,
    request: Request = NOTHING,
    out: Path = Path("tuned"),
    seed: int = 0,
    device: Device = "cpu",
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Find the best plan for a model on this device, and write a report with pictures.

    Args:
        minutes: the time budget.
        max_loss: how much quality may be lost. With real pictures: the share by which FD may be
            above, and recall below, those of the best plan found. Without: the RMSE from the
            model's converged solution (pixels in 0 to 1).
        data: real pictures (a parquet file, a folder, a hub name), where none ship with the model;
            without any, the ODE error alone decides.
        features: what FD compares in: random, or a vision model's folder or hub id.
        guidance: the classifier-free guidance scale of all plans; by default the model's own.
        batch: how many pictures at a time the plan is for.
        out: the folder to write; a second run there resumes the first.
        seed: of the reference's noise and of the search.
    """
    from hasten.core.report import finite
    from hasten.tuning.page import write_report
    from hasten.tuning.tune import tune as run

    loaded = model_of(model, request, device)
    tuned = run(
        loaded,
        minutes=minutes,
        max_loss=max_loss,
        data=data,
        features=features,
        guidance=guidance,
        batch=batch,
        out=out,
        seed=seed,
        quiet=quiet,
    )
    write_report(tuned, loaded, out)
    if json_:
        print(json.dumps(finite(tuned.to_dict())))
    else:
        _print(tuned, out)
    if not tuned.passed:
        raise NoPlanPasses(f"no plan passes; {out / 'plan.json'} is the one that came nearest.")


def _print(tuned: Tuning, out: Path) -> None:
    from hasten.tuning.table import print_finalists

    print_finalists(tuned.front)
    print(tuned.why)
    for note in tuned.notes:
        print(note)
    if tuned.expected is not None:
        low, high = tuned.expected.low, tuned.expected.high
        print(f"a fresh process is expected to take {low:.1f} to {high:.1f} ms (99%)")
    print(f"plan: {tuned.best}")
    print(f"wrote plan.json, report.html, report.json and pictures to {out}")
