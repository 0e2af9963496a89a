"""What a tuning run has found, as data."""

from __future__ import annotations

import dataclasses

from hasten.core.plan import Plan
from hasten.core.report import Conditions
from hasten.tuning.records import (
    Baseline,
    EngineCost,
    Finalist,
    FreshProcessLatency,
    LayerSensitivity,
    RandomBaseline,
    Trial,
    UnsupportedPlan,
)
from hasten.tuning.serialization import Json, to_json


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tuning:
    """What the tuner found.

    Attributes:
        best: the recommended plan; why: one sentence; passed: whether its loss is below
            ``max_loss``, or it is only the one that came nearest.
        front: the plans that no other plan beats in latency, loss and recall, fastest first, and
            the best.
        finalists: every plan that was measured closely, the front among them.
        engines: what a network call costs in each engine and dtype.
        screened: every program that was tried, with its ODE error on few samples.
        random: what random search found in the same time.
        unsupported: plans and engines that this model, device or installation cannot run, and why.
        notes: what was left out because time ran out, and levers that do not pay here.
        layers: how sensitive each layer of the network is to quantization; empty where that was not
            measured.
        expected: the recommended plan's median latency in a fresh process, None where that was not
            measured.
        baseline: what 1000 ancestral steps in eager float32, the published sampler, cost here.
        reference: the plan that made the reference solution; ``reference_samples`` of how many
            samples it is, from the noise of ``seed``.
        measurements: how many were made; seconds: how long all took, ``random_seconds`` of it for
            random search.
        isolated: whether they were made in a process of their own.
    """

    model: str
    best: Plan
    why: str
    passed: bool
    batch: int
    front: tuple[Finalist, ...]
    finalists: tuple[Finalist, ...]
    engines: tuple[EngineCost, ...]
    screened: tuple[Trial, ...]
    random: RandomBaseline
    unsupported: tuple[UnsupportedPlan, ...]
    notes: tuple[str, ...]
    layers: tuple[LayerSensitivity, ...]
    expected: FreshProcessLatency | None
    baseline: Baseline
    reference: str
    reference_samples: int
    seed: int
    max_loss: float
    measurements: int
    seconds: float
    random_seconds: float
    isolated: bool
    conditions: Conditions

    def to_dict(self) -> Json:
        """Plain data; ``report.json`` holds it."""
        return {
            **to_json(self),
            "front": [finalist.to_dict() for finalist in self.front],
            "finalists": [finalist.to_dict() for finalist in self.finalists],
            "screened": [trial.to_dict() for trial in self.screened],
            "random": self.random.to_dict(),
            "unsupported": [plan.to_dict() for plan in self.unsupported],
        }
