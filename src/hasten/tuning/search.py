"""Which programs (solver, grid, steps) are worth a closer look, by their ODE error on few samples.

Programs that are known to be good for the model's family come first, each with the fewest steps
that pass. Then all step ladders are climbed side by side, fewest steps first: a ladder far behind
the best one pauses until twice its steps, and none goes beyond a plan that is far below the bar.
Optuna's TPE searches levels of their own for the best programs, with fewer and fewer steps. Random
search gets as many seconds of measurements as all of them took. It is reported beside them, and
what it finds is a candidate like any other.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import random
import warnings
from collections.abc import Callable, Sequence

from hasten.core.errors import UserError
from hasten.core.model import Model
from hasten.core.plan import Plan
from hasten.core.program import Program
from hasten.tuning.records import Origin, RandomBaseline, Trial
from hasten.tuning.runner import Clock
from hasten.tuning.settings import TunerSettings
from hasten.tuning.space import Space, StepLadder, why_unsupported

ScreenPlan = Callable[[Plan, Origin], Trial | None]
"""The trial of a plan for a part of the search; None where it cannot be run."""


@dataclasses.dataclass(kw_only=True)
class ProgramSearch:
    """Screens plans; ``trials`` are those that were measured.

    Attributes:
        max_loss: the ODE error below which a plan passes.
        clock: what the ends of the phases are read from.
        not_tried: how many plans of the ladders were left out because time ran out.
        max_steps: above it no plan is tried, once some plan is far below the bar.
    """

    model: Model
    space: Space
    guidance: float
    max_loss: float
    seed: int
    screen: ScreenPlan
    clock: Clock
    settings: TunerSettings = dataclasses.field(default_factory=TunerSettings)
    trials: list[Trial] = dataclasses.field(default_factory=list)
    not_tried: int = 0
    max_steps: float = math.inf
    _programs: dict[Program, Trial] = dataclasses.field(default_factory=dict)

    def search_known(self, ladders: Sequence[StepLadder], end: float) -> None:
        """Measure the ranked ``ladders`` around the fewest evaluations that pass, until ``end``:
        the first from ``first_steps`` on, up or down; each other one with fewer than those, down
        while it passes."""
        fewest = math.inf
        for ladder in ladders:
            plans = [(self._evaluations(plan), plan) for plan in ladder.plans]
            allowed = [
                place
                for place, (evaluations, plan) in enumerate(plans)
                if evaluations < fewest
                and (fewest < math.inf or steps_of(plan) <= self.settings.first_steps)
            ]
            place = max(allowed, default=-1)
            climbing = fewest == math.inf
            while 0 <= place < len(plans) and self.clock() <= end:
                evaluations, plan = plans[place]
                trial = self._tried(plan, "known good")
                if trial is None:
                    break
                self._add(trial)
                passes = trial.rmse <= self.max_loss
                fewest = min(fewest, evaluations) if passes else fewest
                if not passes and not climbing:
                    break
                climbing = climbing and not passes
                place += 1 if climbing else -1

    def _evaluations(self, plan: Plan) -> int:
        return plan.trace(self.model.schedule).evaluations

    def _add(self, trial: Trial) -> None:
        """Keep a trial; one that is far below the bar says how many steps are enough."""
        self.trials.append(trial)
        if trial.rmse < self.settings.enough_share * self.max_loss:
            self.max_steps = min(self.max_steps, steps_of(trial.plan))

    def search_steps(self, ladders: Sequence[StepLadder], end: float) -> None:
        """Climb all ladders side by side until ``end``; lack of time costs the plans of many
        steps."""
        rungs = [
            (steps_of(plan), i, plan) for i, ladder in enumerate(ladders) for plan in ladder.plans
        ]
        paused_until: dict[int, int] = {}
        best = math.inf
        for steps, ladder, plan in sorted(rungs, key=lambda rung: rung[:2]):
            if steps < paused_until.get(ladder, 0) or steps > self.max_steps:
                continue
            trial = None if self.clock() > end else self._tried(plan, "step search")
            if trial is None:
                self.not_tried += 1
                continue
            self._add(trial)
            best = min(best, trial.rmse)
            if trial.rmse > self.settings.pause_ratio * best:
                paused_until[ladder] = 2 * steps

    def try_programs(self, plans: Sequence[Plan]) -> None:
        """Screen the programs that were learned for these weights."""
        trials = [self._tried(plan, "program") for plan in plans]
        self.trials += [trial for trial in trials if trial is not None]

    def search_levels(self, end: float) -> None:
        """Search levels of their own for the best program, clipped and not: with fewer and fewer
        steps than the cheapest plan below the bar takes, then with as many."""
        trials = [trial for trial in self.trials if not trial.plan.program]
        passing = [steps_of(trial.plan) for trial in trials if trial.rmse <= self.max_loss]
        most = min(passing, default=max(steps_of(trial.plan) for trial in trials))
        bar = self.settings.level_search_bar * self.max_loss
        for steps in (*range(most - 1, 1, -1), most):
            candidates = [trial for trial in trials if trial.plan.steps == steps]
            best_by_clip: dict[float | None, Trial] = {}
            for trial in sorted(candidates, key=lambda trial: trial.rmse):
                best_by_clip.setdefault(trial.plan.clip, trial)
            if best_by_clip and min(trial.rmse for trial in best_by_clip.values()) > bar:
                continue
            for trial in best_by_clip.values():
                self._search_levels_of(trial.plan, end)

    def _search_levels_of(self, plan: Plan, end: float) -> None:
        """Stretch the gaps between levels by factors that TPE chooses for the least ODE error."""
        try:
            import optuna
        except ImportError as error:
            raise UserError('the tuner needs: pip install "hasten[tune]"') from error
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        schedule, stretch = self.model.schedule, self.settings.gap_stretch
        grid, steps = plan.parts.grid, steps_of(plan)
        assert grid is not None
        positions = [*grid.positions(schedule, steps), schedule.clean]
        gaps = [before - after for before, after in itertools.pairwise(positions)]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            sampler = optuna.samplers.TPESampler(
                seed=self.seed,
                multivariate=True,
                n_startup_trials=self.settings.level_random_trials,
            )
        study = optuna.create_study(sampler=sampler)
        for _ in range(self.settings.level_trials):
            if self.clock() > end:
                return
            point = study.ask()
            factors = [
                math.exp(point.suggest_float(f"gap{i}", -stretch, stretch)) for i in range(steps)
            ]
            stretched = plan.model_copy(update={"grid": _stretched(positions[0], gaps, factors)})
            supported = why_unsupported(self.model, stretched) is None
            trial = self._tried(stretched, "level search") if supported else None
            if trial is None:
                study.tell(point, state=optuna.trial.TrialState.FAIL)
                continue
            self.trials.append(trial)
            study.tell(point, trial.rmse)

    def random_baseline(self, end: float) -> RandomBaseline:
        """The best plan that random search finds in as many seconds of measurements as ``trials``
        took (an outcome that is known costs what it cost, not the time again). All that it
        measures joins the trials, so what is recommended is never worse than its best."""
        allowance = sum(trial.seconds for trial in self.trials)
        generator = random.Random(self.seed)
        spent, draws = 0.0, 0
        drawn: list[Trial] = []
        while spent < allowance and self.clock() < end and draws < self.settings.random_draws:
            plan = self.space.random_plan(generator, self.model, self.guidance)
            draws += 1
            supported = why_unsupported(self.model, plan) is None
            trial = self._tried(plan, "random search") if supported else None
            if trial is not None:
                spent += trial.seconds
                drawn.append(trial)
        self.trials += drawn
        passing = [trial for trial in drawn if trial.rmse <= self.max_loss]
        return RandomBaseline(
            plans=len(drawn),
            seconds=round(spent, 2),
            share=round(spent / allowance, 3) if allowance else 0.0,
            best=min(passing, key=lambda trial: trial.evaluations, default=None),
        )

    def _tried(self, plan: Plan, by: Origin) -> Trial | None:
        """The trial of the plan; two names for one program (orders above what few steps allow) are
        measured once."""
        program = plan.trace(self.model.schedule)
        known = self._programs.get(program)
        if known is not None:
            # Random search starts without knowledge, so it pays for the measurement again.
            seconds = known.seconds if by == "random search" else 0.0
            return dataclasses.replace(known, plan=plan, by=by, seconds=seconds)
        trial = self.screen(plan, by)
        if trial is not None:
            self._programs[program] = trial
        return trial


def steps_of(plan: Plan) -> int:
    """The plan's number of steps, 0 where a learned program decides."""
    return plan.parts.steps or 0


def _stretched(first: float, gaps: list[float], factors: list[float]) -> str:
    """The grid ``given`` from ``first`` on, with gaps in other proportions and the same sum."""
    wide = [gap * factor for gap, factor in zip(gaps, factors, strict=True)]
    scale = sum(gaps) / sum(wide)
    positions = [first]
    for gap in wide[:-1]:
        positions.append(positions[-1] - gap * scale)
    return f"given(at={tuple(float(f'{position:.4g}') for position in positions)})"
