"""What a network call costs in each engine, and from that what the budget is enough for."""

from __future__ import annotations

import dataclasses
import math

from hasten.core.errors import UserError
from hasten.core.plan import Plan
from hasten.tuning.budget import Budget
from hasten.tuning.records import EngineCost
from hasten.tuning.requests import TimeNetworkCall
from hasten.tuning.runner import TrialRunner
from hasten.tuning.space import Space


def measure_engines(
    runner: TrialRunner, space: Space, guidance: float, batch: int
) -> list[EngineCost]:
    """What one network call costs in each engine and dtype, fastest first.

    Raises:
        UserError: no engine is exact, with the reason of the last failure.
    """
    settings = runner.settings
    costs: list[EngineCost] = []
    for engine, dtype in space.engines_on(runner.model.device.type):
        plan = Plan(guidance=guidance).model_copy(update={"engine": engine, "dtype": dtype})
        request = TimeNetworkCall(plan=plan, batch=batch)
        compile_s = settings.compile_s if engine == "compile" else 0
        late = compile_s > runner.seconds_until(settings.engines_end)
        if costs and late and request not in runner.journal:
            minutes = 2 * settings.compile_s / settings.engines_end / 60
            advice = f"; give --minutes {minutes:.0f} or more" if engine == "compile" else ""
            runner.notes.append(
                f"engine {engine} in {dtype} was not timed, because time was too short{advice}"
            )
            continue
        # A compilation may take minutes, and the first engine is needed.
        left = runner.seconds_until(settings.engines_end) if costs else math.inf
        cost = runner.run(request, f"timing engine {engine} in {dtype}", left)
        if cost is not None:
            costs.append(cost)
    if not any(is_exact(runner, cost) for cost in costs):
        failures = runner.unsupported
        inexact = ", ".join(f"{cost.engine} in {cost.dtype}" for cost in costs)
        why = f"no engine is exact enough here ({inexact})." if costs else "no engine was measured."
        raise UserError(failures[-1].why if failures else why)
    return sorted(costs, key=lambda cost: cost.latency.median)


def is_exact(runner: TrialRunner, cost: EngineCost) -> bool:
    """Whether the engine may stand for eager float32."""
    return cost.relative_error <= runner.settings.exact_error


def estimate_budget(runner: TrialRunner, exact: EngineCost, guidance: float, batch: int) -> Budget:
    """The budget, by what network calls take in the engine ``exact``: of one batch, and of larger
    ones where that alone would leave too little time for a reference solution."""
    settings, call_s = runner.settings, exact.latency.median / 1000
    budget = Budget(
        seconds=runner.seconds - runner.reserve_s,
        sample_s=call_s / batch,
        call_s=call_s,
        settings=settings,
    )
    plan = Plan(guidance=guidance).model_copy(update={"engine": exact.engine})
    for size in settings.batch_sizes[::-1]:
        if not batch < size <= runner.executor.max_batch or budget.allows_full_reference:
            continue
        if size * budget.sample_s > settings.batch_timing_s:
            continue
        cost = runner.run(TimeNetworkCall(plan=plan, batch=size), f"timing batches of {size}")
        if cost is not None:
            budget = dataclasses.replace(budget, sample_s=cost.latency.median / 1000 / size)
    return budget
