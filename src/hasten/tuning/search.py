"""Which programs (solver, grid, steps) are worth a closer look: the cheap questions.

Every question is the drift on FEW pictures, asked of a float32 engine. All lines of plans climb
side by side, fewest steps first; a line far behind the best pauses until twice the steps. With time
left, Optuna's TPE looks through the wider space (grids with their options). Random search is given
as many seconds of questions as both took, and reported beside them.
"""

from __future__ import annotations

import dataclasses
import math
import random
import time
from collections.abc import Callable
from typing import Any

from hasten.core.errors import UserError
from hasten.core.model import Model
from hasten.core.plan import Plan
from hasten.tuning.pareto import front
from hasten.tuning.space import Line, Space, cannot, clips

FEW = 8
FAR = 1.7  # how many times the best drift at its steps a line may be before it pauses
ENOUGH = 0.4  # lines end once some drift is below this share of the bar
DULL = 40  # trials of TPE in a row that do not move the front

Row = dict[str, Any]
Ask = Callable[[Plan, str], Row | None]
"""The answered screening row of a plan (and who asked), None where time is up."""


@dataclasses.dataclass(kw_only=True)
class Search:
    """Climbs, explores and compares; ``rows`` are the plans that were answered."""

    model: Model
    space: Space
    guidance: float
    bar: float
    seed: int
    ask: Ask
    rows: list[Row] = dataclasses.field(default_factory=list)
    skipped: int = 0
    most: float = math.inf
    _tables: dict[int, Row] = dataclasses.field(default_factory=dict)

    def climb(self, lines: list[Line], end: float) -> None:
        """All lines side by side; lack of time costs the dear plans."""
        plans = [(plan.steps, i, plan) for i, line in enumerate(lines) for plan in line.plans]
        wait: dict[int, int] = {}
        best = math.inf
        for steps, index, plan in sorted(plans, key=lambda entry: entry[:2]):
            if steps < wait.get(index, 0) or steps > self.most:
                continue
            row = None if time.monotonic() > end else self._asked(plan, "lines")
            if row is None:
                self.skipped += 1
                continue
            self.rows.append(row)
            drift = row["drift"]["rmse"]
            best = min(best, drift)
            if drift > FAR * best:
                wait[index] = 2 * steps
            if drift < ENOUGH * self.bar:
                self.most = min(self.most, steps)

    def explore(self, end: float) -> None:
        """Optuna's multi-objective TPE over the wider space, told what is known, until the front
        has not moved for DULL trials."""
        try:
            import optuna
        except ImportError as error:
            raise UserError('the tuner needs: pip install "hasten[tune]"') from error
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        sampler = optuna.samplers.TPESampler(seed=self.seed, n_startup_trials=8)
        study = optuna.create_study(directions=["minimize", "minimize"], sampler=sampler)
        for row in self.rows:
            known = _known(row, self.space, clips(self.model))
            if known is not None:
                study.add_trial(known)
        dull, keys = 0, self._front_keys()
        while dull < DULL and time.monotonic() < end:
            trial = study.ask()
            plan = self.space.suggest(trial, self.model, self.guidance)
            able = plan.steps <= self.most and not cannot(self.model, plan)
            row = self._asked(plan, "tpe") if able else None
            if row is None:
                study.tell(trial, state=optuna.trial.TrialState.FAIL)
                dull += 1
                continue
            self.rows.append(row)
            study.tell(trial, [row["evaluations"], math.log(row["drift"]["rmse"] + 1e-9)])
            now = self._front_keys()
            dull, keys = (0 if now != keys else dull + 1), now

    def random(self, end: float) -> Row:
        """The best plan that random search finds in as many seconds of questions as ``rows`` took
        (an answer that is known costs what it cost, not the time again)."""
        share = sum(row["seconds"] for row in self.rows)
        draw = random.Random(self.seed)
        spent, asked, found = 0.0, 0, []
        while spent < share and time.monotonic() < end:
            fixed = _Drawn(draw)
            plan = self.space.suggest(fixed, self.model, self.guidance)
            row = None if cannot(self.model, plan) else self._asked(plan, "random")
            asked += 1
            if row is None:
                if asked > 10_000:
                    break
                continue
            spent += row["seconds"]
            found.append(row)
        good = [row for row in found if row["drift"]["rmse"] <= self.bar]
        best = min(good, key=lambda row: row["evaluations"], default=None)
        return {
            "plans": len(found),
            "seconds": round(spent, 2),
            "share": round(spent / share, 3) if share else 0.0,
            "best": best,
        }

    def _asked(self, plan: Plan, by: str) -> Row | None:
        """The plan's row; two names for one table (orders above what few steps allow) are one
        question."""
        table = hash(plan.trace(self.model.path))
        if table in self._tables:
            row = self._tables[table]
            cost = row["seconds"] if by == "random" else 0.0  # random search knows nothing yet
            named = {"text": str(plan), "plan": plan.model_dump(), "by": by, "seconds": cost}
            return {**row, **named}
        row = self.ask(plan, by)
        if row is not None:
            self._tables[table] = row
        return row

    def _front_keys(self) -> list[str]:
        kept = front(self.rows, evaluations_of, drift_of)
        return [row["text"] for row in kept]


class _Drawn:
    """An Optuna trial's suggestions, uniform (log-uniform for steps) from one generator."""

    def __init__(self, draw: random.Random) -> None:
        self._draw = draw

    def suggest_categorical(self, name: str, choices: tuple[Any, ...]) -> Any:
        return self._draw.choice(choices)

    def suggest_float(self, name: str, low: float, high: float, step: float) -> float:
        return low + step * self._draw.randrange(round((high - low) / step) + 1)

    def suggest_int(self, name: str, low: int, high: int, log: bool) -> int:
        return round(math.exp(self._draw.uniform(math.log(low), math.log(high))))


def _known(row: Row, space: Space, clipped: tuple[Any, ...]) -> Any:
    """An answered row as a finished Optuna trial, None where the wider space cannot say it."""
    import optuna
    from optuna.distributions import CategoricalDistribution as Category
    from optuna.distributions import FloatDistribution as Float
    from optuna.distributions import IntDistribution as Whole

    plan = Plan(**row["plan"])
    solvers = {Plan(solver=name).solver: name for name in space.solvers}
    params: dict[str, Any] = {"solver": solvers.get(plan.solver), "steps": plan.steps}
    params["grid"] = plan.grid if plan.grid in space.grids else None
    if None in params.values() or plan.grid == "quadratic":
        return None
    distributions: dict[str, Any] = {
        "solver": Category(space.solvers),
        "grid": Category(space.grids),
        "clip": Category(clipped),
        "steps": Whole(min(space.steps), max(space.steps), log=True),
    }
    params["clip"] = plan.clip
    if plan.grid == "karras":
        params["rho"], distributions["rho"] = 7.0, Float(1.0, 12.0, step=0.5)
    values = [row["evaluations"], math.log(row["drift"]["rmse"] + 1e-9)]
    return optuna.trial.create_trial(params=params, distributions=distributions, values=values)


def evaluations_of(row: Row) -> float:
    """A front's cost of a screened row."""
    return row["evaluations"]


def drift_of(row: Row) -> float:
    """A front's loss of a screened row; endless for a plan that draws noise."""
    return math.inf if row["drift"] is None else row["drift"]["rmse"]
