"""``hasten measure``."""

from __future__ import annotations

import json
from typing import Annotated

from hasten.cli.options import NOTHING, Device, Flag, Json, ModelName, Parameter, Request, model_of


def measure(
    model: ModelName = "builtin:mnist",
    *,
    plan: Annotated[list[str] | None, Parameter(name="--plan", negative="")] = None,
    n: int = 64,
    pictures: int = 1000,
    data: str | None = None,
    features: str | None = None,
    batch: int = 64,
    seconds: float = 5.0,
    likelihood: Flag = False,
    request: Request = NOTHING,
    device: Device = "cpu",
    json_: Json = False,
) -> None:
    """Measure what plans cost here and how good their pictures are: the ODE error (the distance
    from the model's own converged solution), and FD, KD, precision and recall against real
    pictures.

    Args:
        plan: a plan file, or key=value,...; give it more than once to compare plans.
        n: pictures for the ODE error; 0 leaves it out.
        pictures: pictures for FD, KD, precision and recall; 0 leaves them out.
        data: real pictures (a parquet file, a folder, a hub name), where none ship with the model.
        features: what FD compares in: random, or a vision model's folder or hub id.
        batch: pictures at a time for the throughput.
        seconds: time for measuring each of latency and throughput.
        likelihood: measure only the likelihood of real pictures (as many as --pictures), in bits
            per dimension.
        json_: print one JSON object per plan.
    """
    from hasten.core.plan import Plan
    from hasten.measuring.compare import compared, likelihoods
    from hasten.tuning.table import print_reports

    plans = [Plan.read(text) for text in plan or []]
    loaded = model_of(model, request, device)
    if likelihood:
        for bits in likelihoods(loaded, plans, data, pictures=pictures, batch=batch):
            print(json.dumps(bits.to_dict()) if json_ else bits)
        return
    settings = {"n": n, "pictures": pictures, "batch": batch, "seconds": seconds}
    reports = []
    for report in compared(loaded, plans, data=data, features=features, **settings):
        reports.append(report)
        if json_:
            print(json.dumps(report.to_dict()), flush=True)
    if not json_:
        print_reports(reports)
