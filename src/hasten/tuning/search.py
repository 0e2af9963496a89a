"""Which programs (solver, grid, steps) are worth a closer look: the cheap questions.

Every question is the ODE error on few pictures, asked of a float32 engine. All lines of plans climb
side by side, fewest steps first; a line far behind the best pauses until twice the steps. Then
Optuna's TPE finds levels of their own for the best lines, with fewer and fewer steps. Random search
is given as many seconds of questions as both took, and reported beside them.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import random
import time
import warnings
from collections.abc import Callable
from typing import Any

from hasten.core.errors import UserError
from hasten.core.grid import grids
from hasten.core.model import Model
from hasten.core.plan import Plan
from hasten.core.program import Program
from hasten.tuning.space import Line, Space, cannot

FAR = 1.7  # how many times the best ODE error at its steps a line may be before it pauses
ENOUGH = 0.4  # lines end once some ODE error is below this share of the bar
TRIALS, STARTS = 60, 15  # of TPE for each, and how many of them at random
HOPELESS = 2.0  # how far above the bar refining is not worth it
STRETCH = 1.0  # a gap between levels is stretched by exp(-1) to exp(1)

Row = dict[str, Any]
Ask = Callable[[Plan, str], Row | None]
"""The answered screening row of a plan (and who asked), None where time is up."""


@dataclasses.dataclass(kw_only=True)
class Search:
    """Climbs, refines and compares; ``rows`` are the plans that were answered."""

    model: Model
    space: Space
    guidance: float
    bar: float
    seed: int
    ask: Ask
    rows: list[Row] = dataclasses.field(default_factory=list)
    skipped: int = 0
    most: float = math.inf
    _tables: dict[Program, Row] = dataclasses.field(default_factory=dict)

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
            ode_error = row["ode_error"]["rmse"]
            best = min(best, ode_error)
            if ode_error > FAR * best:
                wait[index] = 2 * steps
            if ode_error < ENOUGH * self.bar:
                self.most = min(self.most, steps)

    def learned(self, plans: list[Plan]) -> None:
        """Programs that were learned for these weights."""
        self.rows += [row for plan in plans if (row := self._asked(plan, "learned"))]

    def refine(self, end: float) -> None:
        """Levels of their own for the best line, clipped and not, by Optuna's TPE: with fewer and
        fewer steps than the cheapest plan below the bar takes, then with as many."""
        rows = [row for row in self.rows if not row["plan"].get("program")]
        good = [row["plan"]["steps"] for row in rows if ode_error_of(row) <= self.bar]
        most = min(good, default=max(row["plan"]["steps"] for row in rows))
        for steps in (*range(most - 1, 1, -1), most):
            here = [row for row in rows if row["plan"]["steps"] == steps]
            lines: dict[Any, Row] = {}
            for row in sorted(here, key=ode_error_of):
                lines.setdefault(row["plan"]["clip"], row)
            if lines and ode_error_of(min(lines.values(), key=ode_error_of)) > HOPELESS * self.bar:
                continue
            for row in lines.values():
                self._refine(Plan(**row["plan"]), end)

    def _refine(self, plan: Plan, end: float) -> None:
        """Gaps between levels stretched by factors that TPE chooses for the least drift."""
        try:
            import optuna
        except ImportError as error:
            raise UserError('the tuner needs: pip install "hasten[tune]"') from error
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        schedule = self.model.schedule
        places = [*grids.parse(plan.grid).positions(schedule, plan.steps), schedule.clean]
        gaps = [before - after for before, after in itertools.pairwise(places)]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            sampler = optuna.samplers.TPESampler(
                seed=self.seed, multivariate=True, n_startup_trials=STARTS
            )
        study = optuna.create_study(sampler=sampler)
        for _ in range(TRIALS):
            if time.monotonic() > end:
                return
            trial = study.ask()
            factors = [
                math.exp(trial.suggest_float(f"gap{i}", -STRETCH, STRETCH))
                for i in range(plan.steps)
            ]
            tried = plan.model_copy(update={"grid": _stretched(places[0], gaps, factors)})
            row = None if cannot(self.model, tried) else self._asked(tried, "tpe")
            if row is None:
                study.tell(trial, state=optuna.trial.TrialState.FAIL)
                continue
            self.rows.append(row)
            study.tell(trial, ode_error_of(row))

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
        good = [row for row in found if row["ode_error"]["rmse"] <= self.bar]
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
        table = plan.trace(self.model.schedule)
        if table in self._tables:
            row = self._tables[table]
            cost = row["seconds"] if by == "random" else 0.0  # random search knows nothing yet
            named = {"text": str(plan), "plan": plan.model_dump(), "by": by, "seconds": cost}
            return {**row, **named}
        row = self.ask(plan, by)
        if row is not None:
            self._tables[table] = row
        return row


def _stretched(first: float, gaps: list[float], factors: list[float]) -> str:
    """``given`` from ``first`` on, with gaps in other proportions that add up to the same."""
    wide = [gap * factor for gap, factor in zip(gaps, factors, strict=True)]
    share = sum(gaps) / sum(wide)
    places = [first]
    for gap in wide[:-1]:
        places.append(places[-1] - gap * share)
    return f"given(at={tuple(float(f'{place:.4g}') for place in places)})"


class _Drawn:
    """What :meth:`Space.suggest` draws from: uniform, log-uniform for steps."""

    def __init__(self, draw: random.Random) -> None:
        self._draw = draw

    def suggest_categorical(self, name: str, choices: tuple[Any, ...]) -> Any:
        return self._draw.choice(choices)

    def suggest_float(self, name: str, low: float, high: float, step: float) -> float:
        return low + step * self._draw.randrange(round((high - low) / step) + 1)

    def suggest_int(self, name: str, low: int, high: int, log: bool) -> int:
        return round(math.exp(self._draw.uniform(math.log(low), math.log(high))))


def evaluations_of(row: Row) -> float:
    """A front's cost of a screened row."""
    return row["evaluations"]


def ode_error_of(row: Row) -> float:
    """A front's loss of a screened row; endless for a plan that draws noise."""
    return math.inf if row["ode_error"] is None else row["ode_error"]["rmse"]
