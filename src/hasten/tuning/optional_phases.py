"""Tricks that pay under conditions: asked about where they may pay, and said where they do not.

Parallel sampling needs a device on which many pictures cost hardly more than one. Feature reuse
needs many steps: below about ten evaluations, fewer steps of a better solver are cheaper.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from hasten.core.feature_cache import reuses
from hasten.core.model import Model
from hasten.core.plan import Plan
from hasten.measuring.macs import costs
from hasten.tuning.search import Search, ode_error_of

MANY = 10  # evaluations from which reusing features may be cheaper than fewer steps
REUSES = ("deep(branch=0, forecast=1)", "blocks(forecast=1)")  # a U-Net's, a transformer's
TRIED = 3  # programs with which reuse is tried
PARALLEL = "anderson"
STEPS = 50
RUNS, REPEATS = 2, 10  # of each, and how often it evaluates every step, about
SHARE = 0.1  # of the budget that this may take
RACE = {"rounds": 3, "seconds": 10.0, "least": 1}


def try_reuse(search: Search, model: Model) -> str | None:
    """Ask about the best programs of many evaluations with features reused in every second one;
    why not, where that cannot pay."""
    able = [row["evaluations"] for row in search.rows if ode_error_of(row) <= search.bar]
    least = min(able, default=math.inf)
    if least < MANY:
        return f"feature reuse: {least:g} evaluations pass, and it pays from about {MANY} on"
    rows = [row for row in search.rows if row["evaluations"] >= MANY]
    for row in sorted(rows, key=ode_error_of)[:TRIED]:
        for text in REUSES:
            plan = Plan(**row["plan"]).model_copy(update={"reuse": reuses.canonical(text)})
            found = search.ask(plan, "reuse")
            if found is not None:
                each = costs(model, plan)
                marked = plan.trace(model.schedule).reuses
                units = sum(each.part / each.full if part else 1.0 for part in marked)
                search.rows.append({**found, "evaluations": math.ceil(units)})
                break
    return None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Parallel:
    """What parallel sampling costs here: ``times`` the sequential run, and that in a sentence."""

    times: float
    why: str

    @property
    def pays(self) -> bool:
        return self.times < 1.0


def ask_parallel(run: Any, guidance: float, batch: int) -> Parallel | None:
    """DDIM-50 sampled in parallel beside the same in order, both in eager float32; None where that
    cannot be run. Not tried where it takes more than a SHARE of the budget."""
    took = RUNS * STEPS * (run.pace.call + batch * REPEATS * run.pace.each)
    if took > SHARE * run.pace.budget:
        why = f"parallel sampling: not tried, as that takes about {took:.0f} s here"
        return Parallel(times=math.inf, why=why)
    plan = Plan(solver="ddim", grid="uniform", steps=STEPS, guidance=guidance)
    both = [plan, plan.model_copy(update={"executor": PARALLEL})]
    facts = {"plans": [one.model_dump() for one in both], "batch": batch, **RACE}
    done = run.ask("race", "sampling in parallel", **facts)
    if done is None:
        return None
    times = done["timings"][1]["median"] / done["timings"][0]["median"]
    verdict = "it is tried with the finalists" if times < 1 else "so it is not used"
    why = f"parallel sampling of {STEPS} steps takes {times:.2g} times as long as in order here"
    return Parallel(times=times, why=f"{why}, {verdict}")
