"""Levers that pay under conditions: tried where they may pay, with a note where they do not.

A parallel executor needs a device on which many samples cost hardly more than one. A feature cache
needs many steps: below about ten evaluations, fewer steps of a better solver are cheaper.
"""

from __future__ import annotations

import dataclasses
import math

from hasten.core.call import FULL
from hasten.core.model import Model
from hasten.core.plan import Plan
from hasten.measuring.macs import variant_macs
from hasten.sampling import resolve
from hasten.tuning.candidates import Candidate, RaceRules, RelativeLatency, relative_latency
from hasten.tuning.records import Trial
from hasten.tuning.runner import TrialRunner
from hasten.tuning.search import ProgramSearch


def try_feature_caches(search: ProgramSearch, model: Model, end: float) -> str | None:
    """Screen the best programs of many evaluations with a feature cache, until ``end``.

    Returns:
        Why not, where that cannot pay.
    """
    many = search.settings.many_evaluations
    passing = [trial.evaluations for trial in search.trials if trial.passes(search.max_loss)]
    fewest = min(passing, default=math.inf)
    if fewest < many:
        return (
            f"feature cache: not tried, because {fewest:g} evaluations pass and it pays from about "
            f"{many} on"
        )
    expensive = [trial for trial in search.trials if trial.evaluations >= many]
    best = sorted(expensive, key=lambda trial: trial.rmse)[: search.settings.expensive_plans]
    for uncached in best:
        for cache in search.settings.feature_caches:  # a network supports one of them at most
            if search.clock() > end:
                return "feature cache: not tried on every plan, because time ran out"
            plan = uncached.plan.with_lever(cache)
            trial = search.screen(plan, "feature cache", search.pictures[-1])
            if trial is not None:
                search.trials.append(_in_full_evaluations(model, trial))
                break
    return None


def _in_full_evaluations(model: Model, trial: Trial) -> Trial:
    """The trial with its evaluations counted by their cost, in whole full ones."""
    costs = variant_macs(resolve(trial.plan, model))
    assert costs is not None
    variants = trial.plan.trace(model.schedule).variants
    full = sum(costs[variant] / costs[FULL] for variant in variants)
    return dataclasses.replace(trial, evaluations=math.ceil(full))


def try_parallel(runner: TrialRunner, guidance: float, batch: int) -> bool:
    """Time DDIM with a parallel executor against the same in order, both in eager float32, and note
    what came of it. Not tried where it would take too much of the budget.

    Returns:
        Whether the parallel executor is faster here.
    """
    settings, budget = runner.settings, runner.budget
    steps, name = settings.parallel_steps, "parallel sampling"
    step_s = budget.call_s + batch * settings.parallel_repeats * budget.sample_s
    estimated_s = settings.parallel_runs * steps * step_s
    if estimated_s > settings.parallel_share * budget.seconds:
        runner.notes.append(f"{name}: not tried, because it takes about {estimated_s:.0f} s here")
        return False
    in_order = Plan(solver="ddim", grid="uniform", steps=steps, guidance=guidance)
    in_parallel = in_order.model_copy(update={"executor": settings.parallel_executor})
    rules = RaceRules(
        batch=batch,
        rounds=settings.parallel_rounds,
        seconds=settings.parallel_s,
        min_rounds=1,
    )
    timed = relative_latency(runner, in_order, Candidate(name=name, plan=in_parallel), rules)
    runner.notes.append(f"{name}: {_verdict(timed, steps)}")
    return timed.is_faster


def _verdict(timed: RelativeLatency, steps: int) -> str:
    if timed.ratio is None:
        return f"not possible here: {timed.why}"
    verdict = "it is tried with the finalists" if timed.is_faster else "it is not used"
    return f"{steps} steps take {timed.ratio:.2g} times as long as in order here, so {verdict}"
