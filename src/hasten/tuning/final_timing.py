"""The last timings: finalists in turn with each other, and the winner in fresh processes."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Sequence

from hasten.core.plan import Plan
from hasten.core.report import Latency
from hasten.tuning.candidates import race_request
from hasten.tuning.final_selection import FinalSelection
from hasten.tuning.records import Baseline, Finalist, FreshProcessLatency
from hasten.tuning.requests import TimeAlone

ANCESTRAL_STEPS = 1000
STUDENT_T_99 = {3: 9.925, 4: 5.841, 5: 4.604}  # two-sided, by the number of processes


def race(selection: FinalSelection, guidance: float) -> tuple[list[Finalist], Baseline]:
    """The finalists with ``race_ms``, timed in turn with each other and with a part of the
    published sampler in eager float32, and what all of that sampler costs."""
    runner, finalists = selection.runner, selection.finalists
    steps = selection.settings.baseline_steps
    ancestral = Plan(solver="ddpm", grid="uniform", steps=steps, guidance=guidance)
    round_s = sum(finalist.report.latency_ms.median / 1000 for finalist in finalists)
    rules = selection.race_rules(round_s + steps * runner.budget.call_s)
    plans = tuple(finalist.plan for finalist in finalists)
    label = "timing the finalists in turn"
    outcome = runner.outcome(race_request((*plans, ancestral), rules), label)
    failure = outcome.failure
    if outcome.answer is None:
        outcome = runner.outcome(race_request(plans, rules), label)
    if outcome.answer is None:
        untimed = [finalist.report.latency_ms for finalist in finalists]
        return _raced(finalists, untimed), Baseline(latency_ms=None, why=failure)
    latencies = outcome.answer.latencies
    unsteady = max(latency.p90 / latency.median for latency in latencies)
    if unsteady > selection.settings.unsteady:
        runner.notes.append(
            f"timing: this machine's speed changed while plans were timed (a 90th percentile is "
            f"{unsteady:.1f} times the median), so other programs may be using it; the order of "
            "plans holds, because they were timed in turn, but their milliseconds may not"
        )
    raced = _raced(finalists, latencies[: len(finalists)])
    if failure:
        return raced, Baseline(latency_ms=None, why=failure)
    how = f"{steps} of its steps timed in turn with the plans, n = {latencies[-1].n}"
    milliseconds = latencies[-1].median * ANCESTRAL_STEPS / steps
    return raced, Baseline(latency_ms=milliseconds, how=how)


def _raced(finalists: Sequence[Finalist], latencies: Sequence[Latency]) -> list[Finalist]:
    return [
        dataclasses.replace(finalist, race_ms=latency)
        for finalist, latency in zip(finalists, latencies, strict=True)
    ]


def latency_in_fresh_processes(selection: FinalSelection, best: Plan) -> FreshProcessLatency | None:
    """Between which bounds the median latency of ``best`` lies in a fresh process (99%), from the
    medians in a few of them, taken as log-normal; None for a plan that is too slow, or where too
    few could be measured."""
    runner, settings = selection.runner, selection.settings
    fewest = min(STUDENT_T_99)
    reports = (finalist.report for finalist in selection.finalists if finalist.plan == best)
    latency_s = next(reports).latency_ms.median / 1000
    if settings.fresh_process_runs * fewest * latency_s > runner.reserve_s:
        runner.notes.append(f"latency in {fewest} fresh processes: not measured, too little time")
        return None
    medians: list[float] = []
    for number in range(min(settings.fresh_processes, max(STUDENT_T_99))):
        if runner.is_over:
            break
        runner.backend.close()
        request = TimeAlone(
            plan=best,
            batch=selection.batch,
            seconds=settings.fresh_process_s,
            repetition=number,
        )
        latency = runner.run(request, f"timing in fresh process {number + 1}")
        if latency is not None:
            medians.append(latency.median)
    if len(medians) < fewest:
        if runner.is_over:
            runner.notes.append(
                f"latency in fresh processes: not known, because there was time for {len(medians)} "
                f"of {fewest}"
            )
        return None
    return prediction_interval(medians, settings.process_spread)


def prediction_interval(medians: list[float], min_spread: float) -> FreshProcessLatency:
    """The 99% prediction interval of another median, from three to five of them: Student's t on
    their logarithms, whose standard deviation is taken as ``min_spread`` at least."""
    count, logs = len(medians), [math.log(median) for median in medians]
    spread = max(statistics.stdev(logs), min_spread)
    half = STUDENT_T_99[count] * spread * math.sqrt(1 + 1 / count)
    middle = math.exp(statistics.fmean(logs))
    return FreshProcessLatency(
        latency_ms=round(middle, 4),
        low=round(middle * math.exp(-half), 4),
        high=round(middle * math.exp(half), 4),
        processes=count,
    )
