"""Does the tuner's search earn its keep? ``python -m benchmarks.tuner_replay``

Searches are replayed on the tables of ``benchmarks.tuner_table``: what a plan costs and how far its
pictures are off is looked up, not measured. Four searches, three budgets (shares of what the whole
table costs), ten seeds. A search recommends the plan of fewest evaluations whose ODE error, with
its 95% interval on all pictures, is below the bar. Regret is by what share more evaluations that
plan takes than the table's best; a search that recommends none falls back on the most evaluations.
"""

from __future__ import annotations

import dataclasses
import math
import random
import statistics
from collections.abc import Callable
from typing import Any

import optuna
import torch

import hasten
from benchmarks.results_io import write
from benchmarks.tuner_table import MODELS, SPACE, Entry, table
from hasten.core.model import Model
from hasten.core.plan import Plan
from hasten.core.report import OdeError
from hasten.measuring.interval import mean_interval
from hasten.tuning.known_good import known_good
from hasten.tuning.records import Origin, Trial
from hasten.tuning.search import ProgramSearch, steps_of
from hasten.tuning.settings import TunerSettings
from hasten.tuning.space import Space, StepLadder

BUDGETS, SEEDS = (0.025, 0.05, 0.1), range(10)
BARS = {"mnist": (0.1, 0.05, 0.03), "cifar10": (0.1, 0.05, 0.03)}
SETTINGS = TunerSettings()


@dataclasses.dataclass(frozen=True, kw_only=True)
class TableSpace(Space):
    """A space whose random plans are those of a table."""

    plans: tuple[Plan, ...]

    def random_plan(self, generator: random.Random, model: Model, guidance: float) -> Plan:
        return generator.choice(self.plans)


@dataclasses.dataclass(kw_only=True)
class Replay:
    """A table that is measured on, and what that has cost: its clock counts evaluations."""

    model: Model
    entries: dict[str, Entry]
    order: list[int]
    spent: int = 0

    def screen(self, plan: Plan, by: Origin, pictures: int) -> Trial | None:
        entry = self.entries.get(str(plan))
        if entry is None:
            return None
        cost = pictures * entry.evaluations
        self.spent += cost
        errors = torch.tensor([entry.errors[place] for place in self.order[:pictures]])
        mean, low, high = mean_interval(errors.double())
        error = OdeError(rmse=mean, low=low, high=high, n=pictures, reference="table")
        return Trial(
            plan=plan,
            evaluations=entry.evaluations,
            ode_error=error,
            by=by,
            seconds=float(cost),
        )

    def search(self, bar: float, seed: int) -> ProgramSearch:
        """The tuner's own search on this table."""
        plans = tuple(entry.plan for entry in self.entries.values())
        whole = len(self.order)
        return ProgramSearch(
            model=self.model,
            space=TableSpace(plans=plans, solvers=SPACE.solvers, steps=SPACE.steps),
            guidance=1.0,
            max_loss=bar,
            seed=seed,
            pictures=(*(rung for rung in SETTINGS.rungs if rung < whole), whole),
            screen=self.screen,
            clock=lambda: float(self.spent),
            settings=SETTINGS,
        )

    @property
    def ladders(self) -> list[StepLadder]:
        plans = sorted((entry.plan for entry in self.entries.values()), key=steps_of)
        groups: dict[tuple[object, ...], list[Plan]] = {}
        for plan in plans:
            groups.setdefault((plan.solver, plan.grid, plan.clip), []).append(plan)
        return [StepLadder(tuple(group)) for group in groups.values()]


def ours(replay: Replay, bar: float, seed: int, budget: float) -> list[Trial]:
    """The search for the fewest evaluations."""
    search = replay.search(bar, seed)
    search.search_fewest(replay.ladders, budget)
    return search.trials


def at_random(replay: Replay, bar: float, seed: int, budget: float) -> list[Trial]:
    """Plans at random, each on more pictures while it may pass."""
    search = replay.search(bar, seed)
    search.spent_s = math.inf
    search.random_baseline(budget)
    return search.trials


def ranked(replay: Replay, bar: float, seed: int, budget: float) -> list[Trial]:
    """What is known to be good, from the most steps down while it passes, the best first."""
    trials = []
    for solver, grid in known_good(replay.model.schedule):
        plans = [
            entry.plan
            for entry in replay.entries.values()
            if (entry.plan.solver, entry.plan.grid) == (solver, grid)
        ]
        for plan in sorted(plans, key=lambda plan: -(plan.steps or 0)):
            if replay.spent > budget:
                return trials
            trial = replay.screen(plan, "none", len(replay.order))
            assert trial is not None
            trials.append(trial)
            if not trial.passes(bar):
                break
    return trials


def tpe(replay: Replay, bar: float, seed: int, budget: float) -> list[Trial]:
    """Optuna's TPE over solver, grid, steps and clip: fewest evaluations, those above the bar
    behind all others by how far above it they are."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    search = replay.search(bar, seed)
    plans = [entry.plan for entry in replay.entries.values()]
    choices = {
        name: sorted({getattr(plan, name) for plan in plans}, key=str)
        for name in ("solver", "grid", "clip")
    }
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed))
    trials: list[Trial] = []
    for _ in range(2000):
        if replay.spent > budget:
            break
        point = study.ask()
        fields: dict[str, Any] = {
            name: point.suggest_categorical(name, values) for name, values in choices.items()
        }
        fields["steps"] = point.suggest_categorical("steps", list(SPACE.steps))
        trial = search._climbed(Plan(**fields), "none")
        if trial is None:
            study.tell(point, state=optuna.trial.TrialState.FAIL)
            continue
        trials.append(trial)
        passed = trial.passes(bar) and _on_all(replay, trial)
        behind = 0.0 if passed else 50.0 + 10 * math.log(trial.rmse / bar)
        study.tell(point, trial.evaluations + behind)
    return trials


SEARCHES: dict[str, Callable[[Replay, float, int, float], list[Trial]]] = {
    "hasten": ours,
    "random": at_random,
    "ranked list": ranked,
    "TPE": tpe,
}


def regret(replay: Replay, trials: list[Trial], bar: float) -> float:
    """See the top of this file."""
    whole = {str(e.plan): e for e in replay.entries.values()}
    passes = {name: _high(entry) <= bar for name, entry in whole.items()}
    best = min(entry.evaluations for name, entry in whole.items() if passes[name])
    most = max(entry.evaluations for entry in whole.values())
    passing = [trial for trial in trials if passes[str(trial.plan)] and _on_all(replay, trial)]
    chosen = min(passing, key=lambda trial: (trial.evaluations, trial.rmse), default=None)
    if chosen is None:
        return most / best - 1
    return chosen.evaluations / best - 1


def _on_all(replay: Replay, trial: Trial) -> bool:
    return trial.ode_error is not None and trial.ode_error.n == len(replay.order)


def _high(entry: Entry) -> float:
    return mean_interval(torch.tensor(entry.errors).double())[2]


def main() -> None:
    rows = []
    for name, where in MODELS.items():
        model, entries = hasten.load(where), {str(entry.plan): entry for entry in table(name)}
        pictures = len(next(iter(entries.values())).errors)
        cost = pictures * sum(entry.evaluations for entry in entries.values())
        for bar in BARS[name]:
            if not any(_high(entry) <= bar for entry in entries.values()):
                continue
            for share in BUDGETS:
                row: dict[str, Any] = {"model": name, "bar": bar, "share": share, "searches": {}}
                for label, search in SEARCHES.items():
                    regrets = []
                    for seed in SEEDS:
                        order = random.Random(seed).sample(range(pictures), pictures)
                        replay = Replay(model=model, entries=entries, order=order)
                        trials = search(replay, bar, seed, share * cost)
                        regrets.append(regret(replay, trials, bar))
                    row["searches"][label] = {
                        "mean": statistics.mean(regrets),
                        "worst": max(regrets),
                    }
                rows.append(row)
                print(row, flush=True)
    what = (
        "regret in evaluations of searches replayed on the tables, "
        f"mean and worst of {len(SEEDS)} orders of the pictures"
    )
    write("tuner_replay", what, rows)


if __name__ == "__main__":
    main()
