"""Several plans of one model, measured against the same references."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from hasten.core.errors import require_number, require_whole
from hasten.core.model import Model
from hasten.core.plan import Plan
from hasten.core.report import Report
from hasten.measuring.likelihood import Likelihood, likelihood_of
from hasten.measuring.measure import measure
from hasten.measuring.ode_error import Reference, reference, reference_plan
from hasten.measuring.real import real_for


def compared(
    model: Model,
    plans: Sequence[Plan] = (),
    *,
    n: int = 64,
    pictures: int = 1000,
    data: str | None = None,
    features: str | None = None,
    batch: int = 64,
    seconds: float = 5.0,
) -> Iterator[Report]:
    """A report of each plan, or of the model's own plan where there is none, as each is done.

    The converged solution is made once for each guidance, and the real pictures are read
    once.

    Args:
        n: pictures for the ODE error; 0 leaves it out.
        pictures: pictures for FD, KD, precision and recall; 0 leaves them out.
        data: real pictures (a parquet file, a folder, a hub name), where none ship with the model.
        features: what FD compares in: random, or a vision model's folder or hub id.
        batch: pictures at a time for the throughput.
        seconds: how long each of latency and throughput may take beyond five runs.

    Raises:
        UserError: an argument is out of range, the data cannot be read, or a plan does not fit.
    """
    require_whole("n", n, 0, 100_000)
    require_whole("pictures", pictures, 0, 10_000_000)
    require_whole("batch", batch, 1, 1 << 20)
    require_number("seconds", seconds, 0.0, 1e5)
    real = real_for(model, data, features) if pictures else None
    references: dict[Plan, Reference] = {}
    for plan in plans or [Plan(**model.plan)]:
        against = None
        if n > 0 and not plan.stochastic:
            converged = reference_plan(plan)
            if converged not in references:
                references[converged] = reference(model, n, plan=converged)
            against = references[converged]
        yield measure(
            model,
            plan,
            n=n,
            against=against,
            pictures=pictures,
            real=real,
            batch=batch,
            seconds=seconds,
        )


def likelihoods(
    model: Model,
    plans: Sequence[Plan] = (),
    data: str | None = None,
    *,
    pictures: int = 1000,
    batch: int = 64,
) -> Iterator[Likelihood]:
    """The likelihood of ``pictures`` of ``data`` under each plan, or under the model's own."""
    for plan in plans or [Plan(**model.plan)]:
        yield likelihood_of(model, data, pictures=pictures, plan=plan, batch=batch)
