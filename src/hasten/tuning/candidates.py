"""Variants of a plan that may be faster, whatever makes them so, and the one way they are timed."""

from __future__ import annotations

import dataclasses

from hasten.core.plan import Plan
from hasten.tuning.requests import TimePlans
from hasten.tuning.runner import TrialRunner


@dataclasses.dataclass(frozen=True, kw_only=True)
class Candidate:
    """A plan that may be faster than another.

    Attributes:
        name: what makes it different, in the words of the report.
        plan: None where it cannot be tried here.
        note: why not.
    """

    name: str
    plan: Plan | None
    note: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RaceRules:
    """How plans are timed in turn: as many rounds as ``seconds`` allow, from ``min_rounds`` on."""

    batch: int
    rounds: int
    seconds: float
    min_rounds: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class RelativeLatency:
    """How long a candidate takes as a multiple of the plan it is compared with; None where it could
    not be timed, and ``why``."""

    ratio: float | None
    why: str = ""

    @property
    def is_faster(self) -> bool:
        return self.ratio is not None and self.ratio < 1.0


def relative_latency(
    runner: TrialRunner, plan: Plan, candidate: Candidate, rules: RaceRules
) -> RelativeLatency:
    """Time ``candidate`` in turn with ``plan``."""
    if candidate.plan is None:
        return RelativeLatency(ratio=None, why=candidate.note)
    request = race_request((plan, candidate.plan), rules)
    outcome = runner.outcome(request, f"timing {candidate.name}")
    if outcome.answer is None:
        return RelativeLatency(ratio=None, why=outcome.failure)
    reference, variant = (latency.median for latency in outcome.answer.latencies)
    return RelativeLatency(ratio=variant / reference)


def race_request(plans: tuple[Plan, ...], rules: RaceRules) -> TimePlans:
    """The request that times ``plans`` by ``rules``."""
    return TimePlans(
        plans=plans,
        batch=rules.batch,
        rounds=rules.rounds,
        seconds=rules.seconds,
        min_rounds=rules.min_rounds,
    )
