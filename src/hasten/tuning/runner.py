"""Runs the tuner's measurements: through the journal, in the backend, within the budget."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from typing import NoReturn

from tqdm import tqdm

from hasten.core.model import Model
from hasten.core.plan import Plan
from hasten.tuning.budget import Budget
from hasten.tuning.journal import Journal
from hasten.tuning.records import UnsupportedPlan
from hasten.tuning.requests import AnswerT, Outcome, Request
from hasten.tuning.settings import TunerSettings
from hasten.tuning.trials import TrialExecutor
from hasten.tuning.worker import Backend

Clock = Callable[[], float]
"""Seconds that only grow, as ``time.monotonic``."""
MIN_TIMEOUT_S = 30.0  # a measurement is given this long, even where the budget is spent


@dataclasses.dataclass(kw_only=True)
class TrialRunner:
    """Measures, and keeps what the phases of a tuning run share.

    Attributes:
        executor: the model and its settings; ``backend`` is where measurements are made.
        clock: what the budget of ``minutes`` is read from; it starts with the object.
        unsupported: plans and engines that could not be measured, and why.
        notes: what was left out for lack of time, and what does not pay here, in sentences.
        measurements: how many were requested, known ones included.
    """

    executor: TrialExecutor
    backend: Backend
    journal: Journal
    minutes: float
    settings: TunerSettings = dataclasses.field(default_factory=TunerSettings)
    clock: Clock = time.monotonic
    progress: tqdm[NoReturn] | None = None
    unsupported: list[UnsupportedPlan] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)
    measurements: int = 0
    estimated: Budget | None = None
    _late: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        self.began = self.clock()

    def begin_search(self) -> None:
        """Engines and reference are done. Where they took longer than their share, the phases that
        follow share what is left, in the same proportions."""
        share = self.settings.search_begin
        if self.deadline(share) < self.clock() < self.deadline():
            self._late = share, self.clock()

    @property
    def model(self) -> Model:
        return self.executor.model

    @property
    def budget(self) -> Budget:
        """What the time is enough for; known once the engines were timed."""
        assert self.estimated is not None
        return self.estimated

    @property
    def seconds(self) -> float:
        """Of the whole budget."""
        return self.minutes * 60

    @property
    def elapsed_s(self) -> float:
        return self.clock() - self.began

    @property
    def reserve_s(self) -> float:
        """Seconds that are kept for the final race and the fresh processes, and for a reference
        solution of fresh noise where ODE error decides."""
        call_s = 0.0 if self.estimated is None else self.estimated.call_s
        wanted = max(self.settings.reserve_s, self.settings.reserve_calls * call_s)
        timing_s = min(wanted, self.settings.reserve_share * self.seconds)
        if self.estimated is None or self.executor.has_real_pictures:
            return timing_s
        return timing_s + self.estimated.reference_s

    @property
    def is_over(self) -> bool:
        """Whether the whole budget is spent, the reserve included."""
        return self.elapsed_s > self.seconds

    def deadline(self, share: float = 1.0) -> float:
        """When ``share`` of the budget without the reserve is spent, on the clock."""
        seconds = self.seconds - self.reserve_s
        if self._late is None or share <= self._late[0]:
            return self.began + share * seconds
        first, since = self._late
        return since + (share - first) / (1 - first) * (self.began + seconds - since)

    def seconds_until(self, share: float = 1.0) -> float:
        """Seconds that are left until then; negative where it has passed."""
        return self.deadline(share) - self.clock()

    def outcome(
        self, request: Request[AnswerT], label: str, seconds: float = math.inf
    ) -> Outcome[AnswerT]:
        """The answer to ``request``, or why there is none; ``label`` stands beside the progress. It
        is ended after ``seconds``, or with the budget."""
        timeout = max(MIN_TIMEOUT_S, min(seconds, self.seconds - self.elapsed_s))
        outcome = self.journal.outcome(request, lambda: self.backend.run(request, timeout))
        self.measurements += 1
        if self.progress is not None:
            self.progress.set_postfix_str(f" {label}", refresh=False)
            self.progress.n = min(round(self.elapsed_s), self.progress.total)
            self.progress.refresh()
        return outcome

    def run(
        self, request: Request[AnswerT], label: str, seconds: float = math.inf
    ) -> AnswerT | None:
        """:meth:`outcome`'s answer; None where there is none, and then the reason is kept in
        ``unsupported``."""
        outcome = self.outcome(request, label, seconds)
        if outcome.answer is None:
            self.refuse(getattr(request, "plan", Plan()), outcome.failure)
        return outcome.answer

    def refuse(self, plan: Plan, why: str) -> None:
        """Keep why ``plan`` cannot be measured."""
        self.unsupported.append(UnsupportedPlan(plan=plan, why=why))

    def close(self) -> None:
        """End the process and the progress bar."""
        self.backend.close()
        if self.progress is not None:
            self.progress.close()
