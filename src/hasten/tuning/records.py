"""What the tuner has found out, as data: engine costs, trials, finalists and the final result."""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

from hasten.core.plan import Plan
from hasten.core.report import Estimate, Latency, OdeError, Report
from hasten.measuring.quality import Quality
from hasten.tuning.serialization import Json, to_json

Origin = Literal[
    "fewest evaluations",
    "step search",
    "program",
    "level search",
    "random search",
    "feature cache",
    "none",
]
"""Which part of the search tried a plan; "none" for a plan that no search tried."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class EngineCost:
    """What one network call costs in an engine and dtype.

    Attributes:
        precision: the dtype the engine computes in.
        latency: milliseconds of a call of ``batch`` samples.
        relative_error: root mean square distance of the answer from eager float32, relative.
        gflops: billions of operations a second that the call comes to, two for each
            multiply-accumulate of convolutions, matrix products and attention; limit_gflops: those
            of a large matrix product of torch in the same dtype, measured just before; None in
            journals of older versions.
        versions: of the engine's runtime.
    """

    engine: str
    dtype: Literal["float32", "bfloat16", "float16"]
    precision: str
    batch: int
    latency: Latency
    relative_error: float
    weights_mb: float
    versions: dict[str, str]
    gflops: float | None = None
    limit_gflops: float | None = None

    @property
    def share_of_limit(self) -> float | None:
        """``gflops`` over ``limit_gflops``."""
        if self.gflops is None or self.limit_gflops is None:
            return None
        return self.gflops / self.limit_gflops


@dataclasses.dataclass(frozen=True, kw_only=True)
class LayerSensitivity:
    """How far (RMSE, pixels in 0 to 1) samples move when ``layer`` alone is quantized; ``bits`` is
    what it got in the quantized network, "float" where it was left alone."""

    layer: str
    bits: str
    ode_error: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trial:
    """A plan that was tried on few samples.

    Attributes:
        evaluations: network evaluations a sample.
        ode_error: None where the plan draws noise, or nothing was measured.
        by: the search that tried it.
        seconds: how long the measurement took; 0 where the answer was known.
    """

    plan: Plan
    evaluations: int
    ode_error: OdeError | None
    by: Origin
    seconds: float

    @property
    def rmse(self) -> float:
        """The ODE error; infinite where there is none."""
        return math.inf if self.ode_error is None else self.ode_error.rmse

    def passes(self, max_loss: float) -> bool:
        """Whether the whole interval of the ODE error is below ``max_loss``."""
        return self.ode_error is not None and self.ode_error.high <= max_loss

    def to_dict(self) -> Json:
        """Plain data, with the plan as text too."""
        return {"text": str(self.plan), **to_json(self)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class FinalQuality:
    """Quality on many samples; ``excess_fd`` is FD minus what is allowed above the most faithful
    plan's, paired, None for that plan itself."""

    quality: Quality
    excess_fd: Estimate | None = None

    def to_dict(self) -> Json:
        """Plain data: the quality's fields and ``excess_fd``."""
        body = to_json(self)
        return {**body["quality"], "excess_fd": body["excess_fd"]}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finalist:
    """A plan that was measured closely.

    Attributes:
        report: its Report, with FD of the screening samples where there are real pictures.
        final_quality: quality on more samples, for the plans that come into question.
        faithful: whether it is the plan that others' quality is compared with.
        race_ms: latency in turn with the other finalists.
        fresh: ODE error on noise that had no part in choosing the plan, where that was measured.
    """

    report: Report
    final_quality: FinalQuality | None = None
    faithful: bool = False
    race_ms: Latency | None = None
    fresh: OdeError | None = None

    @property
    def plan(self) -> Plan:
        return self.report.plan

    @property
    def rmse(self) -> float:
        """The ODE error; infinite for a plan that draws noise."""
        return math.inf if self.report.ode_error is None else self.report.ode_error.rmse

    @property
    def latency(self) -> Latency:
        """The latency in the race, or the report's where there was no race."""
        return self.race_ms or self.report.latency_ms

    @property
    def loss(self) -> float:
        """FD where real pictures decide, else the ODE error."""
        return self.report.fd.value if self.report.fd else self.rmse

    @property
    def missed(self) -> float:
        """The share of real pictures that the plan does not reach; 0 where that is unknown."""
        return 1 - self.report.recall.value if self.report.recall else 0.0

    def with_quality(self, quality: Quality) -> Finalist:
        """The same with the FD, KD, precision and recall of ``quality``."""
        fields = {name: getattr(quality, name) for name in QUALITY}
        return dataclasses.replace(self, report=dataclasses.replace(self.report, **fields))

    def to_dict(self) -> Json:
        """Plain data: the fields of the report, and what the tuner added."""
        final = None if self.final_quality is None else self.final_quality.to_dict()
        return {
            **self.report.to_dict(),
            "final_quality": final,
            "faithful": self.faithful,
            "race_ms": None if self.race_ms is None else to_json(self.race_ms),
            "fresh": None if self.fresh is None else to_json(self.fresh),
        }


QUALITY = tuple(field.name for field in dataclasses.fields(Quality))


@dataclasses.dataclass(frozen=True, kw_only=True)
class RandomBaseline:
    """What random search found in as many seconds of measurements as the search took.

    ``share`` is how much of that time it got before the budget ended; ``best`` the plan of fewest
    evaluations whose ODE error is below the bar.
    """

    plans: int
    seconds: float
    share: float
    best: Trial | None

    def to_dict(self) -> Json:
        """Plain data."""
        best = None if self.best is None else self.best.to_dict()
        return {**to_json(self), "best": best}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Baseline:
    """What 1000 ancestral steps in eager float32, the published sampler, cost here: milliseconds
    and how they were measured, or why they could not be."""

    latency_ms: float | None
    how: str | None = None
    why: str | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class FreshProcessLatency:
    """Between which bounds (ms) the median latency in a new process lies, with probability
    ``level``; ``latency_ms`` is the middle, from the medians of ``processes`` processes."""

    latency_ms: float
    low: float
    high: float
    processes: int
    level: float = 0.99


@dataclasses.dataclass(frozen=True, kw_only=True)
class UnsupportedPlan:
    """A plan that the model, device or installation cannot run, and why."""

    plan: Plan
    why: str

    def to_dict(self) -> Json:
        """Plain data, the plan as text."""
        return {"plan": str(self.plan), "why": self.why}
