"""Which programs (solver, grid, steps) are worth a closer look, by their ODE error.

First the fewest evaluations that pass are looked for: a model of the errors, which begins with what
is known to be good, chooses the plan to measure next and on how many pictures. Where real pictures
decide, all step ladders are climbed side by side, fewest steps first: a ladder far behind the best
one pauses until twice its steps, and none goes beyond a plan that is far below the bar. Optuna's
TPE searches levels of their own for the best programs, with fewer and fewer steps. Random search
gets as many seconds of measurements as all of them took. It is reported beside them, and what it
finds is a candidate like any other.
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
from hasten.tuning.error_model import ErrorModel
from hasten.tuning.known_good import known_good
from hasten.tuning.records import Origin, RandomBaseline, Trial
from hasten.tuning.runner import Clock
from hasten.tuning.settings import TunerSettings
from hasten.tuning.space import Space, StepLadder, clips, why_unsupported

ScreenPlan = Callable[[Plan, Origin, int], Trial | None]
"""The trial of a plan for a part of the search, on so many pictures; None where it cannot be
run."""


@dataclasses.dataclass(kw_only=True)
class ProgramSearch:
    """Screens plans; ``trials`` are those that were measured.

    Attributes:
        max_loss: a plan passes where the whole interval of its ODE error is below it.
        pictures: on how many pictures plans are measured, fewest first: those that may pass go on
            to the next number.
        clock: what the ends of the phases are read from.
        not_tried: how many plans of the ladders were left out because time ran out.
        max_steps: above it no plan is tried, once some plan is far below the bar.
        spent_s: seconds of measurements, those of random search left out.
    """

    model: Model
    space: Space
    guidance: float
    max_loss: float
    seed: int
    pictures: tuple[int, ...]
    screen: ScreenPlan
    clock: Clock
    settings: TunerSettings = dataclasses.field(default_factory=TunerSettings)
    trials: list[Trial] = dataclasses.field(default_factory=list)
    not_tried: int = 0
    max_steps: float = math.inf
    spent_s: float = 0.0
    _programs: dict[tuple[Program, int], Trial] = dataclasses.field(default_factory=dict)

    def search_fewest(self, ladders: Sequence[StepLadder], end: float) -> bool:
        """Look for the fewest evaluations that pass, until ``end`` or until no plan of fewer is
        likely to. First what is known to be best is given steps until it passes, so that there is
        something to recommend. From then on, each time the plan whose chance to pass, guessed from
        all trials, is worth most for what its next pictures cost (successive halving: a plan is
        measured on few pictures, and on more while it may still pass).

        Returns:
            Whether it ended by itself, so that nothing of fewer evaluations is left to try.
        """
        every = [plan for ladder in ladders for plan in ladder.plans]
        first: dict[Program, Plan] = {}  # of several names for one program
        for plan in every:
            first.setdefault(plan.trace(self.model.schedule), plan)
        plans = {str(plan): plan for plan in first.values()}
        evaluations_of = {name: self._evaluations(plan) for name, plan in plans.items()}
        most_of_all = 2 * max(evaluations_of.values(), default=1)
        known = known_good(self.model.schedule)
        self._search_first(list(plans.values()), known, end)
        while self.clock() <= end:
            trials = {str(trial.plan): trial for trial in self.trials}
            fewest = self._fewest_that_pass()
            open_plans = [
                (evaluations_of[name], plan, rungs)
                for name, plan in plans.items()
                if evaluations_of[name] < fewest and (rungs := self._rungs_above(trials.get(name)))
            ]
            if not open_plans:
                return True
            model = ErrorModel(self.trials, self.pictures[-1], known)
            guesses = model.guesses([(plan, evaluations) for evaluations, plan, _ in open_plans])
            bar = self.max_loss / self._interval_above()
            chances = [guess.chance_below(bar) for guess in guesses]
            if max(chances) < self.settings.least_chance:
                return True
            most = min(fewest, most_of_all)
            worth = [
                chance * math.log(most / evaluations) / (evaluations * _expected(rungs, chance))
                for chance, (evaluations, _, rungs) in zip(chances, open_plans, strict=True)
            ]
            _, plan, (pictures, *_) = open_plans[worth.index(max(worth))]
            trial = self._tried(plan, "fewest evaluations", pictures)
            if trial is None or trial.ode_error is None:
                del plans[str(plan)]
                continue
            self.trials = [other for other in self.trials if other.plan != plan]
            self._add(trial)
        return False

    def _search_first(
        self, plans: Sequence[Plan], known: Sequence[tuple[str, str]], end: float
    ) -> None:
        """Measure the best of ``known`` that there is, from ``first_steps`` on, until it passes."""
        bound = clips(self.model)[-1]
        ladders = ([plan for plan in plans if (plan.solver, plan.grid) == pair] for pair in known)
        ladder = next((ladder for ladder in ladders if ladder), list(plans))
        ladder = [plan for plan in ladder if plan.clip == bound] or ladder
        ladder.sort(key=steps_of)
        enough = [plan for plan in ladder if steps_of(plan) >= self.settings.first_steps]
        for plan in enough or ladder[-1:]:
            trial = self._climbed(plan, "fewest evaluations") if self.clock() <= end else None
            if trial is not None:
                self._add(trial)
            if trial is None or self._passes(trial):
                return

    def _rungs_above(self, trial: Trial | None) -> tuple[int, ...]:
        """On how many pictures a plan is to be measured next, and then; none where it was on
        all."""
        measured = 0 if trial is None or trial.ode_error is None else trial.ode_error.n
        return tuple(pictures for pictures in self.pictures if pictures > measured)

    def _fewest_that_pass(self) -> float:
        passing = [trial.evaluations for trial in self.trials if self._passes(trial)]
        return min(passing, default=math.inf)

    def _passes(self, trial: Trial) -> bool:
        """Whether the trial passes on all pictures: of many plans, some pass on few by luck."""
        on_all = trial.ode_error is not None and trial.ode_error.n >= self.pictures[-1]
        return on_all and trial.passes(self.max_loss)

    def _interval_above(self) -> float:
        """How many times the ODE error the upper end of its interval on all pictures is."""
        ratios = [
            trial.ode_error.high / trial.rmse
            for trial in self.trials
            if trial.ode_error and trial.rmse > 0 and trial.ode_error.n == self.pictures[-1]
        ]
        return sum(ratios) / len(ratios) if ratios else self.settings.interval_above

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
            if self.clock() > end:
                self.not_tried += 1
                continue
            trial = self._tried(plan, "step search", self.pictures[0])
            if trial is None:
                continue
            self._add(trial)
            best = min(best, trial.rmse)
            if trial.rmse > self.settings.pause_ratio * best:
                paused_until[ladder] = 2 * steps

    def try_programs(self, plans: Sequence[Plan], end: float) -> None:
        """Screen the programs that were learned for these weights, until ``end``."""
        for plan in plans:
            trial = self._climbed(plan, "program") if self.clock() <= end else None
            if trial is None:
                self.not_tried += self.clock() > end
            else:
                self.trials.append(trial)

    def search_levels(self, end: float) -> None:
        """Search levels of their own for the best program, clipped and not: with fewer and fewer
        steps than the cheapest plan below the bar takes, then with as many."""
        trials = [trial for trial in self.trials if not trial.plan.program]
        passing = [steps_of(trial.plan) for trial in trials if self._passes(trial)]
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
            trial = self._climbed(stretched, "level search") if supported else None
            if trial is None:
                study.tell(point, state=optuna.trial.TrialState.FAIL)
                continue
            self.trials.append(trial)
            study.tell(point, trial.rmse)

    def random_baseline(self, end: float) -> RandomBaseline:
        """The best plan that random search finds in as many seconds of measurements as ``trials``
        took (an outcome that is known costs what it cost, not the time again). All that it
        measures joins the trials, so what is recommended is never worse than its best."""
        allowance = self.spent_s
        generator = random.Random(self.seed)
        spent, draws = 0.0, 0
        drawn: list[Trial] = []
        while spent < allowance and self.clock() < end and draws < self.settings.random_draws:
            plan = self.space.random_plan(generator, self.model, self.guidance)
            draws += 1
            supported = why_unsupported(self.model, plan) is None
            trial = self._climbed(plan, "random search") if supported else None
            if trial is not None:
                spent += trial.seconds
                drawn.append(trial)
        self.trials += drawn
        passing = [trial for trial in drawn if self._passes(trial)]
        return RandomBaseline(
            plans=len(drawn),
            seconds=round(spent, 2),
            share=round(spent / allowance, 3) if allowance else 0.0,
            best=min(passing, key=lambda trial: trial.evaluations, default=None),
        )

    def _climbed(self, plan: Plan, by: Origin) -> Trial | None:
        """The trial of the plan on few pictures, or on more where it may pass; its seconds are
        those of all."""
        last, seconds = None, 0.0
        for pictures in self.pictures:
            trial = self._tried(plan, by, pictures)
            if trial is None:
                break
            seconds += trial.seconds
            last = dataclasses.replace(trial, seconds=seconds)
            if trial.ode_error is None or trial.ode_error.low > self.max_loss:
                break
        return last

    def _tried(self, plan: Plan, by: Origin, pictures: int) -> Trial | None:
        """The trial of the plan on so many pictures; two names for one program (orders above what
        few steps allow) are measured once."""
        key = (plan.trace(self.model.schedule), pictures)
        known = self._programs.get(key)
        if known is not None:
            # Random search starts without knowledge, so it pays for the measurement again.
            seconds = known.seconds if by == "random search" else 0.0
            return dataclasses.replace(known, plan=plan, by=by, seconds=seconds)
        trial = self.screen(plan, by, pictures)
        if trial is not None:
            self._programs[key] = trial
            self.spent_s += 0.0 if by == "random search" else trial.seconds
        return trial


def _expected(rungs: tuple[int, ...], chance: float) -> float:
    """How many pictures a plan will be measured on: those of the first of ``rungs``, and of the
    others if it passes."""
    return rungs[0] + chance * sum(rungs[1:])


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
