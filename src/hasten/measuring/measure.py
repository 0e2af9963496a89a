"""measure(model, plan) -> Report."""

from __future__ import annotations

from hasten.core.model import Model
from hasten.core.plan import Plan
from hasten.core.report import Drift, Report
from hasten.measuring.conditions import conditions
from hasten.measuring.drift import Reference, reference
from hasten.measuring.memory import forget_peak, peak_mb, weights_mb
from hasten.measuring.timer import timed
from hasten.sampler import Sampler, build


def measure(
    model: Model,
    plan: Plan | None = None,
    *,
    n: int = 64,
    against: Reference | None = None,
    batch: int = 64,
    seconds: float = 5.0,
) -> Report:
    """What ``plan`` costs on this device and how far its pictures drift.

    Args:
        n: starts for the drift; 0 measures cost alone.
        against: a reference to share between plans; made here where it is None.
        batch: pictures at a time for the throughput.
        seconds: how long each of latency and throughput may take beyond five runs.
    """
    plan = plan or Plan()
    sampler = build(model, plan)
    forget_peak(model.device)
    latency = timed(
        lambda: sampler.sample(1, cond=_label(model)), device=model.device, seconds=seconds
    )
    many = timed(
        lambda: sampler.sample(batch, cond=_label(model), batch=batch),
        device=model.device,
        seconds=seconds,
        warmup=1,
    )
    return Report(
        plan=plan.model_dump(),
        key=plan.key,
        model=model.name,
        evaluations=sampler.evaluations,
        rounds=sampler.evaluations,
        latency_ms=latency.milliseconds(),
        throughput={"pictures_per_s": batch / many.median, "batch": batch, "n": many.n},
        drift=_drift(model, plan, n, against),
        peak_mb=peak_mb(model.device),
        weights_mb=weights_mb(sampler.model.net),
        conditions=conditions(model.device, dtype_in_use(sampler)),
    )


def _drift(model: Model, plan: Plan, n: int, against: Reference | None) -> Drift | None:
    if plan.stochastic or (n == 0 and against is None):
        return None
    return (against or reference(model, n, guidance=plan.guidance)).drift(plan)


def dtype_in_use(sampler: Sampler) -> str:
    """The dtype the network's weights have, which is what it computes in."""
    return str(sampler.model.dtype).removeprefix("torch.")


def _label(model: Model) -> int | None:
    return None if model.labels is None else 0
