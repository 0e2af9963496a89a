"""What the tuner can have measured: a dataclass for each measurement, with the type of its answer.

Requests and answers are plain data, so a journal can hold both and another process can answer.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, ClassVar, Generic, TypeVar

from hasten.core.plan import Plan
from hasten.core.report import Estimate, Latency, OdeError, Report
from hasten.measuring.quality import Quality
from hasten.tuning.records import EngineCost, LayerSensitivity
from hasten.tuning.serialization import Json, from_json, to_json

AnswerT = TypeVar("AnswerT")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request(Generic[AnswerT]):
    """A measurement; ``kind`` names it in the journal, ``answer_type`` is what comes back."""

    kind: ClassVar[str]
    answer_type: ClassVar[type]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome(Generic[AnswerT]):
    """What came of a request: an answer, or the reason why there is none.

    ``seconds`` is how long it took; ``timed_out`` whether it was ended because it took too long,
    ``killed`` whether its process died: another attempt may succeed.
    """

    answer: AnswerT | None = None
    seconds: float = 0.0
    failure: str = ""
    timed_out: bool = False
    killed: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReferenceSpec:
    """Which reference solution ODE errors are measured against: the plan that makes it, and of how
    many samples it is, from sample ``first`` on."""

    plan: Plan
    samples: int
    first: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Screening:
    """Network evaluations of a plan and its ODE error, None for a plan that draws noise."""

    evaluations: int
    ode_error: OdeError | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Race:
    """Latencies of plans timed in turn, in the order of the request."""

    latencies: tuple[Latency, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class CalibratedNetwork:
    """The file of a quantized network, and how sensitive its layers are, most sensitive first."""

    file: str
    layers: tuple[LayerSensitivity, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TimeNetworkCall(Request[EngineCost]):
    """What one network call costs in the plan's engine and dtype, and how far its answer is from
    eager float32."""

    kind: ClassVar[str] = "network call"
    answer_type: ClassVar[type] = EngineCost
    plan: Plan
    batch: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class MakeReference(Request[ReferenceSpec]):
    """Make the reference solution and keep it."""

    kind: ClassVar[str] = "reference"
    answer_type: ClassVar[type] = ReferenceSpec
    reference: ReferenceSpec


@dataclasses.dataclass(frozen=True, kw_only=True)
class Screen(Request[Screening]):
    """Evaluations and ODE error of a plan on the first ``samples`` of the reference."""

    kind: ClassVar[str] = "ODE error"
    answer_type: ClassVar[type] = Screening
    plan: Plan
    samples: int
    reference: ReferenceSpec


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeasureReport(Request[Report]):
    """The plan's Report without the comparison with real pictures."""

    kind: ClassVar[str] = "report"
    answer_type: ClassVar[type] = Report
    plan: Plan
    reference: ReferenceSpec
    batch: int
    seconds: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeasureQuality(Request[Quality]):
    """Fréchet and kernel distance, precision and recall of ``samples`` samples."""

    kind: ClassVar[str] = "quality"
    answer_type: ClassVar[type] = Quality
    plan: Plan
    samples: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class CompareFd(Request[Estimate]):
    """FD of ``plan`` minus (1 + ``allowed_excess``) times FD of ``baseline``, from the same noise,
    with the interval of the paired difference."""

    kind: ClassVar[str] = "FD difference"
    answer_type: ClassVar[type] = Estimate
    plan: Plan
    baseline: Plan
    samples: int
    allowed_excess: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class TimePlans(Request[Race]):
    """Latencies of plans timed in turn with each other, from ``min_rounds`` to ``rounds`` rounds,
    as many as ``seconds`` have room for."""

    kind: ClassVar[str] = "race"
    answer_type: ClassVar[type] = Race
    plans: tuple[Plan, ...]
    batch: int
    rounds: int
    seconds: float = math.inf
    min_rounds: int = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class TimeAlone(Request[Latency]):
    """Latency of ``batch`` samples of the plan alone; ``repetition`` tells repetitions apart."""

    kind: ClassVar[str] = "latency"
    answer_type: ClassVar[type] = Latency
    plan: Plan
    batch: int
    seconds: float
    repetition: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class CalibrateQuantization(Request[CalibratedNetwork]):
    """Quantize the network for the plan into ``file``, except for the layers that would move its
    samples by more than ``max_ode_error`` together."""

    kind: ClassVar[str] = "quantization"
    answer_type: ClassVar[type] = CalibratedNetwork
    plan: Plan
    file: str
    bits: str
    max_ode_error: float


REQUESTS = {
    request.kind: request
    for request in (
        TimeNetworkCall,
        MakeReference,
        Screen,
        MeasureReport,
        MeasureQuality,
        CompareFd,
        TimePlans,
        TimeAlone,
        CalibrateQuantization,
    )
}


def request_to_json(request: Request[AnswerT]) -> Json:
    """The request as a JSON object that names its kind."""
    return {"request": request.kind, **to_json(request)}


def request_from_json(body: Json) -> Request[Any]:
    """The request that :func:`request_to_json` wrote."""
    return from_json(REQUESTS[body["request"]], body)


def outcome_to_json(outcome: Outcome[AnswerT]) -> Json:
    """The outcome as a JSON object, its answer nested."""
    answer = None if outcome.answer is None else to_json(outcome.answer)
    facts = {"seconds": outcome.seconds, "failure": outcome.failure}
    ended = {"timed_out": outcome.timed_out, "killed": outcome.killed}
    return {"answer": answer, **facts, **ended}


def outcome_from_json(request: Request[AnswerT], body: Json) -> Outcome[AnswerT]:
    """The outcome of ``request`` that :func:`outcome_to_json` wrote."""
    answer: AnswerT | None = None
    if body["answer"] is not None:
        answer = from_json(request.answer_type, body["answer"])
    return Outcome(
        answer=answer,
        seconds=body["seconds"],
        failure=body["failure"],
        timed_out=body["timed_out"],
        killed=body.get("killed", False),  # older files do not say
    )
