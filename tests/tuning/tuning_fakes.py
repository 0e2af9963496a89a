"""A clock, a backend and records for tests of the tuner: nothing here reads the time."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch

import hasten
from hasten.core.errors import UserError
from hasten.core.model import Model
from hasten.core.plan import Plan
from hasten.core.report import Estimate, Latency, OdeError, Report, Throughput
from hasten.measuring.quality import Quality
from hasten.tuning.journal import Journal
from hasten.tuning.records import EngineCost, Finalist, FinalQuality, Trial
from hasten.tuning.requests import (
    MeasureReport,
    Outcome,
    Race,
    ReferenceSpec,
    Request,
    Screen,
    TimeAlone,
    TimeNetworkCall,
    TimePlans,
)
from hasten.tuning.runner import TrialRunner
from hasten.tuning.settings import TunerSettings
from hasten.tuning.space import Space
from hasten.tuning.trials import TrialExecutor

SMALL = Space(
    solvers=("ddim", "dpmpp(order=2)", "unipc(order=3)"),
    grids=("uniform", "karras"),
    engines=(("eager", "float32"),),
)
SMALLER = dataclasses.replace(SMALL, solvers=("ddim", "unipc(order=3)"), steps=(2, 3, 4, 6))
QUICK = TunerSettings(
    reference_sizes=((8, 50),), level_trials=5, level_random_trials=3, race_s=0.1, race_rounds=2
)
REFERENCE = ReferenceSpec(plan=Plan(steps=20), samples=8)


class FakeClock:
    """Seconds that pass only where a test says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class GaussianNet(torch.nn.Module):
    """Exact epsilon network for data ~ Normal(0.3, 0.5^2) on DDPM's schedule, so the ODE error is
    known."""

    def __init__(self) -> None:
        super().__init__()
        self.schedule = hasten.schedule("ddpm")
        self.unused = torch.nn.Parameter(torch.zeros(1))

    def forward(self, x, t, condition=None):
        level = self.schedule.at(float(t[0]))
        power = (level.alpha * 0.5) ** 2 + level.sigma**2
        x0 = 0.3 + level.alpha * 0.25 / power * (x - level.alpha * 0.3)
        return (x - level.alpha * x0) / level.sigma


def gaussian_model() -> Model:
    return Model(
        net=GaussianNet(),
        schedule=hasten.schedule("ddpm"),
        prediction=hasten.prediction("epsilon"),
        shape=(1, 8, 8),
        name="gaussian",
    )


class FakeBackend:
    """Answers from ``answers`` by kind of request, else measures with the executor, except that
    every network call takes ``call_ms``. Each request takes ``request_s`` on the clock."""

    def __init__(
        self,
        executor: TrialExecutor,
        clock: FakeClock,
        answers: dict[type, Callable[[Any], Any]] | None = None,
        *,
        call_ms: float = 2.0,
        request_s: float = 0.25,
        isolated: bool = False,
    ) -> None:
        self.executor, self.clock, self.isolated = executor, clock, isolated
        self.call_ms, self.request_s = call_ms, request_s
        self.requests: list[Request[Any]] = []
        self.timeouts: list[float] = []
        self.closed = 0
        timed: dict[type, Callable[[Any], Any]] = {
            TimeNetworkCall: self._network_call,
            MeasureReport: self._report,
            TimePlans: lambda request: Race(latencies=tuple(map(self._latency, request.plans))),
            TimeAlone: lambda request: self._latency(request.plan),
        }
        self.answers = timed | (answers or {})

    def run(self, request: Request[Any], timeout: float) -> Outcome[Any]:
        self.requests.append(request)
        self.timeouts.append(timeout)
        self.clock.now += self.request_s
        try:
            answer = self.answers.get(type(request), self.executor.answer)(request)
        except UserError as error:
            return Outcome(failure=str(error), seconds=self.request_s)
        return Outcome(answer=answer, seconds=self.request_s)

    def close(self) -> None:
        self.closed += 1

    def of_kind(self, kind: type) -> list[Any]:
        return [request for request in self.requests if isinstance(request, kind)]

    def _latency(self, plan: Plan) -> Latency:
        return latency(self.call_ms * plan.trace(self.executor.model.schedule).evaluations)

    def _network_call(self, request: TimeNetworkCall) -> EngineCost:
        cost = self.executor.time_network_call(request)
        return dataclasses.replace(cost, latency=latency(self.call_ms), limit_gflops=150.0)

    def _report(self, request: MeasureReport) -> Report:
        plan, spec = request.plan, request.reference
        screen = Screen(plan=plan, samples=spec.samples, reference=spec)
        screening = self.executor.screen(screen)
        milliseconds = self.call_ms * screening.evaluations
        return report(plan, screening.evaluations, milliseconds, screening.ode_error)


def make_runner(
    model: Model,
    answers: dict[type, Callable[[Any], Any]] | None = None,
    *,
    minutes: float = 4.0,
    settings: TunerSettings = QUICK,
    data: str | None = None,
    **options: Any,
) -> tuple[TrialRunner, FakeBackend, FakeClock]:
    """A runner with a clock of its own and a fake backend."""
    clock, executor = FakeClock(), TrialExecutor(model=model, data=data)
    backend = FakeBackend(executor, clock, answers, **options)
    runner = TrialRunner(
        executor=executor,
        backend=backend,
        journal=Journal(file=None, subject={}),
        minutes=minutes,
        settings=settings,
        clock=clock,
    )
    return runner, backend, clock


def latency(milliseconds: float) -> Latency:
    bounds = {"low": 0.9 * milliseconds, "high": 1.1 * milliseconds}
    return Latency(first=milliseconds, median=milliseconds, p90=milliseconds, n=9, **bounds)


def engine_cost(
    engine: str = "eager", dtype: str = "float32", milliseconds: float = 2.0, batch: int = 1
) -> EngineCost:
    return EngineCost(
        engine=engine,
        dtype=dtype,  # type: ignore[arg-type]
        precision=dtype,
        batch=batch,
        latency=latency(milliseconds),
        relative_error=0.0,
        weights_mb=1.0,
        versions={},
        gflops=120.0,
        limit_gflops=150.0,
    )


def ode_error(rmse: float) -> OdeError:
    """An ODE error whose interval is a tenth of it to each side."""
    return OdeError(rmse=rmse, low=0.9 * rmse, high=1.1 * rmse, n=64, reference="converged")


def estimate(value: float) -> Estimate:
    return Estimate(value=value, low=value * 0.9, high=value * 1.1, n=2000)


def quality(fd: float, recall: float | None = 0.9, met: float | None = None) -> Quality:
    recalled = None if recall is None else estimate(recall)
    return Quality(
        fd=estimate(fd),
        kd=None,
        precision=None,
        recall=recalled,
        features="fake",
        prompt_accuracy=None if met is None else estimate(met),
    )


def report(
    plan: Plan, evaluations: float, milliseconds: float, error: OdeError | None = None
) -> Report:
    throughput = Throughput(pictures_per_s=100.0, low=90.0, high=110.0, batch=4, n=5, first_s=0.1)
    return Report(
        plan=plan,
        key=plan.key,
        model="fake",
        evaluations=evaluations,
        rounds=evaluations,
        latency_ms=latency(milliseconds),
        throughput=throughput,
        ode_error=error,
        peak_mb=1.0,
        weights_mb=1.0,
        conditions={"device": "cpu", "threads": 1, "torch": "2"},
    )


def trial(
    plan: Plan | None = None, rmse: float | None = 0.01, evaluations: int | None = None
) -> Trial:
    plan = plan or Plan(solver="ddim", grid="uniform", steps=evaluations or 3)
    return Trial(
        plan=plan,
        evaluations=evaluations or plan.steps,
        ode_error=None if rmse is None else ode_error(rmse),
        by="none" if rmse is None else "step search",
        seconds=0.1,
    )


def finalist(
    ms: int,
    rmse: float | None,
    excess: tuple[float, float] | None = None,
    recall: float = 0.9,
    met: float | None = None,
) -> Finalist:
    """A finalist of ``ms`` evaluations of a millisecond each; with ``excess``, one whose FD was
    compared with the most faithful plan's."""
    error = None if rmse is None else ode_error(rmse)
    raced = Finalist(report=report(Plan(steps=ms), ms, ms, error), race_ms=latency(ms))
    if excess is None:
        return raced
    low, high = excess
    paired = Estimate(value=(low + high) / 2, low=low, high=high, n=2000)
    measured = quality(1.0, recall, met)
    final_quality = FinalQuality(quality=measured, excess_fd=paired)
    return dataclasses.replace(raced.with_quality(measured), final_quality=final_quality)
