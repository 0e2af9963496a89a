"""A Report: what a plan cost, what it gave, and the conditions it was measured under."""

from __future__ import annotations

import dataclasses
import json
from typing import Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class Timing:
    """Seconds of repeated runs; ``first`` is the first of all, where compiling happens."""

    first: float
    median: float
    p90: float
    n: int
    low: float
    high: float

    def milliseconds(self) -> dict[str, float]:
        """As a Report shows it; ``low`` and ``high`` bound the median with 95% confidence."""
        names = ("first", "median", "p90", "low", "high")
        out: dict[str, float] = {name: round(getattr(self, name) * 1e3, 4) for name in names}
        return {**out, "n": self.n}


@dataclasses.dataclass(frozen=True, kw_only=True)
class OdeError:
    """Distance of pictures in [0, 1] from the model's own converged solution from the same noise.

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
        macs: multiply-accumulates of one picture, None where they depend on the data.
        evaluations: network calls a picture; rounds: sequential batches of calls; means over a few
            pictures where they depend on the data.
        latency_ms: one picture at a time; throughput: pictures a second in batches.
        ode_error: None for a plan that draws noise on the way.
        peak_mb: the most memory the process (CPU) or the device held while sampling.
        conditions: device, dtype in use, threads, versions.
        fd, kd, precision, recall: the pictures against real ones; None where there are none.
        features: in which features, such as "random convolutions, seed 0".
    """

    plan: dict[str, Any]
    key: str
    model: str
    evaluations: float
    rounds: float
    latency_ms: dict[str, float]
    throughput: dict[str, float]
    ode_error: OdeError | None
    peak_mb: float
    weights_mb: float
    conditions: dict[str, Any]
    fd: Estimate | None = None
    kd: Estimate | None = None
    precision: Estimate | None = None
    recall: Estimate | None = None
    features: str | None = None
    macs: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as ``--json`` prints it."""
        return dataclasses.asdict(self)

    def to_json(self) -> str:
        """One JSON object."""
        return json.dumps(self.to_dict(), indent=1)
