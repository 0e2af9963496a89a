"""measure(model, plan) -> Report."""

from __future__ import annotations

from typing import TypedDict

import torch

from hasten.core.engine import Prepared
from hasten.core.errors import require_whole
from hasten.core.model import Model
from hasten.core.plan import Plan, PlanLike, as_plan
from hasten.core.random_streams import Seed
from hasten.core.report import Estimate, OdeError, Report, Throughput
from hasten.measuring.conditions import conditions
from hasten.measuring.macs import macs
from hasten.measuring.memory import forget_peak, peak_mb, require_memory
from hasten.measuring.nfe import nfe
from hasten.measuring.ode_error import Reference, reference, reference_plan
from hasten.measuring.prompts import checked_prompts, prompt_accuracy
from hasten.measuring.quality import quality
from hasten.measuring.real import Real, real_for
from hasten.measuring.timer import timed
from hasten.sampling import Sampler, build


def measure(
    model: Model,
    plan: PlanLike | None = None,
    *,
    n: int = 64,
    against: Reference | None = None,
    pictures: int = 1000,
    real: Real | None = None,
    batch: int = 64,
    seconds: float = 5.0,
    net: Prepared | None = None,
) -> Report:
    """What ``plan`` costs on this device, how far its pictures are from the model's own converged
    solution (the ODE error), and how far they are from real ones.

    Args:
        plan: a Plan, a file, ``"key=value,..."`` or a dict; None for the model's own.
        n: starts for the ODE error; 0 leaves it out.
        against: a reference to share between plans; made here where it is None.
        pictures: how many for FD, KD, precision and recall; 0 leaves them out.
        real: real pictures to hold them against; by default what ships with the model, and without
            either the four are left out.
        batch: pictures at a time for the throughput.
        seconds: how long each of latency and throughput may take beyond five runs.
        net: the plan's prepared network, to share it; the first call is then not one that compiles.

    Raises:
        UserError: the batch does not fit into memory, or the plan does not fit the model.
    """
    plan = as_plan(plan, model.plan)
    require_whole("batch", batch, 1, 1 << 20)
    require_memory(model, plan, batch)
    sampler = build(model, plan, net=net)
    forget_peak(model.device)
    latency = timed(
        lambda: sampler.sample(1, condition=model.request(1)), device=model.device, seconds=seconds
    )
    many = timed(
        lambda: sampler.sample(batch, condition=model.request(batch), batch=batch),
        warmup=1,
        device=model.device,
        seconds=seconds,
    )
    evaluations, rounds = nfe(sampler)
    return Report(
        plan=plan,
        key=plan.key,
        model=model.name,
        evaluations=evaluations,
        rounds=rounds,
        latency_ms=latency.milliseconds(),
        throughput=Throughput(
            pictures_per_s=batch / many.median,
            low=batch / many.high,
            high=batch / many.low,
            batch=batch,
            n=many.n,
            first_s=round(many.first, 3),
        ),
        peak_mb=peak_mb(model.device),
        weights_mb=sampler.net.weights_mb + sampler.resolved.start.weights_mb(),
        macs=macs(sampler),
        ode_error=_ode_error(model, plan, n, against, sampler.net),
        **judged(sampler, pictures, real, batch),
        conditions=conditions(model.device, sampler.net.precision, sampler.net.versions),
    )


class Judged(TypedDict, total=False):
    """The fields of a report that many pictures are needed for."""

    fd: Estimate | None
    kd: Estimate | None
    precision: Estimate | None
    recall: Estimate | None
    features: str | None
    prompt_accuracy: Estimate | None


def judged(sampler: Sampler, n: int, real: Real | None = None, batch: int = 64) -> Judged:
    """FD, KD, precision and recall of ``n`` pictures of ``sampler``, where there are real pictures
    to hold them against; and how many show what their prompts ask, where that can be checked."""
    require_whole("pictures", n, 0, 10_000_000)
    if n == 0:
        return {}
    real = real or real_for(sampler.resolved.requested)
    prompts = checked_prompts(sampler.model, n)
    if real is None:
        if not prompts:
            return {}
        return {"prompt_accuracy": prompt_accuracy(pictures_of(sampler, n, batch), prompts).share}
    measured = quality(pictures_of(sampler, n, batch), real, prompts)
    return {
        "fd": measured.fd,
        "kd": measured.kd,
        "precision": measured.precision,
        "recall": measured.recall,
        "features": measured.features,
        "prompt_accuracy": measured.prompt_accuracy,
    }


def pictures_of(sampler: Sampler, n: int, batch: int = 64) -> torch.Tensor:
    """The ``n`` pictures that quality is judged by, labels in turn: the same noise for every plan,
    and other noise than the ODE error's."""
    condition = sampler.model.labels_in_turn(n)
    return sampler.sample(n, seed=Seed.QUALITY, condition=condition, batch=batch)


def _ode_error(
    model: Model, plan: Plan, n: int, against: Reference | None, net: Prepared
) -> OdeError | None:
    if plan.stochastic or (n == 0 and against is None):
        return None
    if against is None:
        against = reference(model, n, plan=reference_plan(plan))
    return against.ode_error(plan, net)
