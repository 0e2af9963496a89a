"""ODE error against multiply-accumulates of feature caches on the built-in model, one run:
fewer steps, DeepCache from its package, its forecast, and learned masks."""

from __future__ import annotations

import copy
import dataclasses
import types
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

import hasten
from benchmarks.results_io import write
from hasten.core.condition import as_condition
from hasten.core.plan import Plan
from hasten.learning.compression.cache import Bench
from hasten.measuring.macs import macs
from hasten.measuring.ode_error import Reference, reference
from hasten.sampling import prepare

N = 32
BASES = {
    "solver=ddim,grid=uniform,steps=50": (30, 25, 20, 15, 12, 9),
    "solver=dpmpp,grid=uniform,steps=20": (15, 12, 10, 8, 7, 6),
    "solver=dpmpp,grid=uniform,steps=50": (25, 20, 15, 12, 10, 8),
}
EVERY = (2, 3, 5)
BUDGETS = (0.7, 0.55, 0.45, 0.35)
CUT = "deep(branch=0)"  # what DeepCache calls cache_branch_id=0, its default
Row = dict[str, Any]


class DeepCached(torch.nn.Module):
    """The model's U-Net under the DeepCache package, which reads the step off its one time."""

    def __init__(self, model: hasten.Model, times: list[float], every: int, branch: int) -> None:
        super().__init__()
        from DeepCache import DeepCacheSDHelper

        self.unet = copy.deepcopy(model.net.module)
        scheduler = types.SimpleNamespace(timesteps=torch.tensor(times))
        self.helper = DeepCacheSDHelper(types.SimpleNamespace(unet=self.unet, scheduler=scheduler))
        self.helper.set_params(cache_interval=every, cache_branch_id=branch)
        self.helper.enable()

    def forward(self, x: torch.Tensor, t: torch.Tensor, condition: Any = None) -> torch.Tensor:
        labels = as_condition(condition, len(x)).labels
        return self.unet(x, t[0], class_labels=labels, return_dict=False)[0]


def main() -> None:
    model = hasten.load("builtin:mnist")
    held = reference(model, N)
    rows: list[Row] = []
    for text, fewer in BASES.items():
        base = Plan.read(text)
        mine = list(points(held, base, fewer))
        rows += mine
        rows += verdicts(base, mine)
        what = f"ODE error (n = {N}) from {held.plan} against multiply-accumulates of a picture"
        write("reuse", what, rows)


def points(held: Reference, base: Plan, fewer: tuple[int, ...]) -> Iterator[Row]:
    """What every plan costs and gives."""
    model = held.model
    yield point(held, base, "full", base)
    for steps in fewer:
        yield point(held, base, "fewer steps", base.model_copy(update={"steps": steps}))
    for every in EVERY:
        yield deep_cached(held, base, every)
    for every in (*EVERY, 8):
        forecast = f"deep(branch=0, every={every}, forecast=1)"
        yield point(held, base, "uniform, forecast", base.with_lever(forecast))
    yield point(held, base, "encoder", base.with_lever("encoder"))
    for cut, kind in ((CUT, "learned"), ("deep(branch=0, forecast=1)", "learned, forecast")):
        bench = Bench(model, base, cut)
        for budget in BUDGETS:
            found = bench.best(budget)
            yield {**point(held, base, kind, found.plan), "budget": budget}


def deep_cached(held: Reference, base: Plan, every: int) -> Row:
    """DeepCache, and how far our mask on the same branch is from its pictures."""
    model = held.model
    ours = base.with_lever(f"deep(branch=0, every={every})")
    row = point(held, base, "DeepCache", ours)
    times = [level.t for level in base.levels(model.schedule)[:-1]]
    theirs = DeepCached(model, times, every, 0).eval()
    net = prepare(dataclasses.replace(model, net=theirs), base)
    row["plan"] = f"{base}, DeepCache(cache_interval={every}, cache_branch_id=0)"
    ode_error = held.ode_error(base, net)
    assert ode_error is not None
    made = {"noise": held.noise, "condition": held.condition}
    one, other = hasten.build(model, base, net=net), hasten.build(model, ours)
    row["apart"] = float((one.sample(**made) - other.sample(**made)).abs().max())
    row["ode_error"] = ode_error.rmse
    return {**row, "ode_error_interval": [ode_error.low, ode_error.high]}


def point(held: Reference, base: Plan, kind: str, plan: Plan) -> Row:
    ode_error, sampler = held.ode_error(plan), hasten.build(held.model, plan)
    assert ode_error is not None
    return {
        "base": str(base),
        "kind": kind,
        "plan": str(plan),
        "evaluations": sampler.evaluations,
        "macs": macs(sampler),
        "ode_error": ode_error.rmse,
        "ode_error_interval": [ode_error.low, ode_error.high],
        "n": ode_error.n,
    }


def verdicts(base: Plan, rows: list[Row]) -> Iterator[Row]:
    """How many times fewer multiply-accumulates each kind of plan needs at the ODE error of
    DeepCache's and of the learned ones."""
    kinds = ("fewer steps", "uniform, forecast", "learned", "learned, forecast")
    for row in rows:
        if row["kind"] not in ("DeepCache", "learned, forecast"):
            continue
        found = {kind: needed(rows, kind, row["ode_error"]) for kind in kinds}
        times = {
            kind: None if value is None else row["macs"] / value for kind, value in found.items()
        }
        yield {
            "base": str(base),
            "kind": "times fewer at the ODE error of",
            "plan": row["plan"],
            "ode_error": row["ode_error"],
            **times,
        }


def needed(rows: list[Row], kind: str, ode_error: float) -> float | None:
    """The multiply-accumulates at which plans of ``kind`` reach ``ode_error``: on the curve
    through the plans that no cheaper one beats, linear in log ODE error; None outside of what was
    measured."""
    kinds = (kind, "full")  # where every curve ends
    ordered = sorted((row["macs"], row["ode_error"]) for row in rows if row["kind"] in kinds)
    curve: list[tuple[float, float]] = []
    for cost, value in ordered:
        if not curve or value < curve[-1][1]:
            curve.append((cost, value))
    if not curve[-1][1] <= ode_error <= curve[0][1]:
        return None
    logs = [np.log(value) for _, value in reversed(curve)]
    return float(np.interp(np.log(ode_error), logs, [cost for cost, _ in reversed(curve)]))


if __name__ == "__main__":
    main()
