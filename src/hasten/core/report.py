"""A Report: what a plan cost, what it gave, and the conditions it was measured under."""

from __future__ import annotations

import dataclasses
import json
import math

from hasten.core.plan import Plan

Conditions = dict[str, str | int | None]
"""Device, dtype computed in, threads and versions."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Latency:
    """Milliseconds of ``n`` repeated runs; ``first`` is the first of all, where compiling happens.
    ``low`` and ``high`` bound the median with 95% confidence."""

    first: float
    median: float
    p90: float
    low: float
    high: float
    n: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Throughput:
    """Samples a second in batches of ``batch``, from ``n`` runs; ``low`` and ``high`` are its 95%
    interval, ``first_s`` the seconds of the first run."""

    pictures_per_s: float
    low: float
    high: float
    batch: int
    n: int
    first_s: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Timing:
    """Seconds of repeated runs; ``first`` is the first of all, where compiling happens."""

    first: float
    median: float
    p90: float
    n: int
    low: float
    high: float

    def milliseconds(self) -> Latency:
        """The same in milliseconds, rounded to 0.1 microseconds."""
        names = ("first", "median", "p90", "low", "high")
        return Latency(**{name: round(getattr(self, name) * 1e3, 4) for name in names}, n=self.n)


@dataclasses.dataclass(frozen=True, kw_only=True)
class OdeError:
    """Distance of samples in [0, 1] from the model's own converged solution from the same noise.

    ``rmse`` is the mean over pictures, ``low`` and ``high`` its 95% interval; ``features`` the same
    distance in features, relative to the spread of the reference, None without a feature network.
    """

    rmse: float
    low: float
    high: float
    n: int
    reference: str
    features: float | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Estimate:
    """A number from ``n`` generated pictures; ``low`` and ``high`` are its 95% interval."""

    value: float
    low: float
    high: float
    n: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
    """One plan on one model and device.

    Attributes:
        macs: multiply-accumulates of one sample, None where they depend on the data.
        evaluations: network evaluations a sample; rounds: sequential batches of them; means over a
            few samples where they depend on the data.
        latency_ms: one sample at a time; throughput: samples a second in batches.
        ode_error: None for a plan that draws noise on the way.
        peak_mb: the most memory the process (CPU) or the device held while sampling.
        conditions: device, dtype in use, threads, versions.
        fd, kd, precision, recall: the samples against real pictures; None without those.
        features: in which features, such as "random convolutions, seed 0".
        prompt_accuracy: the share of samples that show what their prompts ask, where that can be
            checked.
    """

    plan: Plan
    key: str
    model: str
    evaluations: float
    rounds: float
    latency_ms: Latency
    throughput: Throughput
    ode_error: OdeError | None
    peak_mb: float
    weights_mb: float
    conditions: Conditions
    fd: Estimate | None = None
    kd: Estimate | None = None
    precision: Estimate | None = None
    recall: Estimate | None = None
    features: str | None = None
    prompt_accuracy: Estimate | None = None
    macs: float | None = None

    def to_dict(self) -> dict[str, object]:
        """Plain data, as ``--json`` prints it."""
        fields = {**dataclasses.asdict(self), "plan": self.plan.model_dump()}
        return {name: finite(entry) for name, entry in fields.items()}

    def to_json(self) -> str:
        """One JSON object."""
        return json.dumps(self.to_dict(), indent=1)


def finite(value: object) -> object:
    """Plain data with None where JSON has no number: the bounds of an interval that is open."""
    if isinstance(value, dict):
        return {name: finite(entry) for name, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
