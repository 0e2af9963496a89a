"""One run of the tuner, phase by phase."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from hasten.core.errors import UserError
from hasten.core.model import Model
from hasten.core.plan import Plan
from hasten.measuring.ode_error import reference_plan
from hasten.sampling import subject
from hasten.tuning.budget import OutOfTime
from hasten.tuning.engine_costs import estimate_budget, is_exact, measure_engines
from hasten.tuning.final_selection import FinalSelection
from hasten.tuning.final_timing import latency_in_fresh_processes, race
from hasten.tuning.fresh_noise import checked_on_fresh_noise
from hasten.tuning.known_good import known_good
from hasten.tuning.network_levers import try_levers
from hasten.tuning.optional_phases import try_feature_caches, try_parallel
from hasten.tuning.pareto import front
from hasten.tuning.recommendation import candidate, recommend
from hasten.tuning.records import EngineCost, Finalist, Origin, Trial
from hasten.tuning.requests import MakeReference, ReferenceSpec, Screen
from hasten.tuning.result import Tuning
from hasten.tuning.runner import TrialRunner
from hasten.tuning.search import ProgramSearch
from hasten.tuning.space import (
    Space,
    clips,
    distilled_students,
    learned_programs,
    smaller_networks,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TuningRun:
    """One run of the tuner, phase by phase; ``folder`` is where learned networks are written, None
    where they are not tried."""

    runner: TrialRunner
    space: Space
    max_loss: float
    guidance: float = 1.0
    batch: int = 1
    folder: Path | None = None

    def result(self) -> Tuning:
        """Run all phases.

        Raises:
            UserError: no time is left for a single plan, or no plan can be measured.
        """
        runner, model = self.runner, self.runner.model
        engines = measure_engines(runner, self.space, self.guidance, self.batch)
        exact = next(cost for cost in engines if is_exact(runner, cost))
        runner.estimated = estimate_budget(runner, exact, self.guidance, self.batch)
        try:
            reference = self._reference(exact)
            runner.begin_search()
            search = self._search(reference)
            self._search_programs(search)
        except OutOfTime as error:
            raise OutOfTime(f"{error} {self._guess(engines[0])}") from error
        began = runner.clock()
        random = search.random_baseline(runner.deadline(runner.settings.random_end))
        random_seconds = runner.clock() - began
        if search.not_tried:
            plural = "" if search.not_tried == 1 else "s"
            runner.notes.append(
                f"{search.not_tried} program{plural} of more steps: not tried, because time ran out"
            )
        selection = self._selected(engines, reference, search.trials)
        smaller = smaller_networks(model) if self.space.students else []
        layers = try_levers(selection, self.folder, smaller)
        finalists, baseline = race(selection, self.guidance)
        finalists = checked_on_fresh_noise(runner, finalists, reference, self.max_loss)
        _, passed = candidate(finalists, self.max_loss)
        chosen, why = recommend(finalists, self.max_loss, baseline, self.batch, runner.minutes)
        isolated = runner.backend.isolated
        return Tuning(
            model=model.name,
            best=chosen.plan,
            why=why,
            passed=passed,
            batch=self.batch,
            front=tuple(_front_with(chosen, finalists)),
            finalists=tuple(finalists),
            engines=tuple(engines),
            screened=_unique(search.trials),
            random=random,
            expected=latency_in_fresh_processes(selection, chosen.plan) if isolated else None,
            unsupported=tuple(runner.unsupported),
            notes=tuple(runner.notes),
            layers=layers,
            baseline=baseline,
            reference=str(reference.plan),
            reference_samples=reference.samples,
            seed=runner.executor.seed,
            max_loss=self.max_loss,
            measurements=runner.measurements,
            seconds=runner.elapsed_s,
            random_seconds=random_seconds,
            isolated=isolated,
            conditions=chosen.report.conditions,
        )

    def _guess(self, cost: EngineCost) -> str:
        """What is usually good for a model of this kind, in the fastest engine, in a sentence;
        where there is a folder, it is written there."""
        model, settings = self.runner.model, self.runner.settings
        solver, grid = known_good(model.schedule)[0]
        plan = Plan(
            solver=solver,
            grid=grid,
            steps=settings.guessed_steps,
            clip=clips(model)[-1],
            guidance=self.guidance,
            engine=cost.engine,
            dtype=cost.dtype,
        ).model_copy(update={"device": model.device.type})
        sentence = f"Until then, a guess from what is usually good, not measured here: {plan}"
        if self.folder is None:
            return sentence
        plan.write(self.folder / "guess.json")
        return f"{sentence}, which is in {self.folder / 'guess.json'}"

    def _reference(self, exact: EngineCost) -> ReferenceSpec:
        """Make the reference solution of as many samples as there is time for, with more
        evaluations where those were too few."""
        size: tuple[int, int] | None = self.runner.budget.reference_size
        reference, own = None, 0.0
        while size is not None:
            reference = self._made_reference(exact, *size)
            own = self._own_error(reference)
            if own <= self.runner.settings.reference_own_error * self.max_loss:
                return reference
            size = self.runner.budget.finer_reference(size)
        assert reference is not None
        self.runner.notes.append(
            f"reference solution: there was time for {reference.plan.steps} evaluations of "
            f"{reference.samples} samples; their own error is about {own:.2g} beside a bar of "
            f"{self.max_loss:g}; give more --minutes"
        )
        return reference

    def _made_reference(self, exact: EngineCost, samples: int, evaluations: int) -> ReferenceSpec:
        plan = reference_plan(Plan(guidance=self.guidance), engine=exact.engine)
        plan = plan.model_copy(update={"steps": evaluations})
        reference = ReferenceSpec(plan=plan, samples=samples)
        outcome = self.runner.outcome(MakeReference(reference=reference), "reference solution")
        if outcome.answer is None:
            why = f"the reference solution of {samples} samples: {outcome.failure}"
            if outcome.timed_out:
                raise OutOfTime(f"{why}; give more --minutes.")
            raise UserError(why)
        return reference

    def _own_error(self, reference: ReferenceSpec) -> float:
        """How far the reference solution is from the true one: a third of what half its
        evaluations differ from it, as for a solver of second order (Richardson)."""
        steps = reference.plan.parts.steps or 0
        half = reference.plan.model_copy(update={"steps": max(2, steps // 2)})
        samples = min(self.runner.settings.reference_check_samples, reference.samples)
        request = Screen(plan=half, samples=samples, reference=reference)
        answer = self.runner.run(request, "accuracy of the reference solution")
        error = None if answer is None else answer.ode_error
        if error is None:
            self.runner.notes.append("reference solution: its own error could not be measured")
            return 0.0
        return error.rmse / 3

    def _search(self, reference: ReferenceSpec) -> ProgramSearch:
        runner = self.runner

        def screen(plan: Plan, by: Origin, samples: int) -> Trial | None:
            exact = plan.model_copy(update={"engine": reference.plan.engine})
            request = Screen(plan=exact, samples=samples, reference=reference)
            outcome = runner.outcome(request, str(plan))
            if outcome.answer is None:
                runner.refuse(plan, outcome.failure)
                return None
            return Trial(
                plan=plan,
                evaluations=outcome.answer.evaluations,
                ode_error=outcome.answer.ode_error,
                by=by,
                seconds=outcome.seconds,
            )

        return ProgramSearch(
            model=runner.model,
            space=self.space,
            guidance=self.guidance,
            max_loss=self.max_loss,
            seed=runner.executor.seed,
            pictures=runner.budget.rungs(reference.samples),
            screen=screen,
            clock=runner.clock,
            settings=runner.settings,
        )

    def _search_programs(self, search: ProgramSearch) -> None:
        """Screen plans of few evaluations, step ladders where real pictures decide, learned
        programs, levels, feature caches."""
        runner, settings = self.runner, self.runner.settings
        before = runner.elapsed_s
        ladders, unsupported = self.space.ladders(runner.model, self.guidance)
        runner.unsupported[:0] = unsupported
        refused = len(runner.unsupported)
        judged = runner.executor.has_real_pictures
        end = settings.fewest_end if judged else settings.level_search_end
        complete = search.search_fewest(ladders, runner.deadline(end))
        if judged:
            search.search_steps(ladders, runner.deadline(settings.step_search_end))
        if not search.trials and len(runner.unsupported) > refused:
            raise UserError(f"no plan could be measured: {runner.unsupported[-1].why}")
        if not search.trials:
            needed = 1.5 * before / 60 / settings.step_search_end / (1 - settings.reserve_share)
            raise OutOfTime(
                f"minutes is {runner.minutes:g}, and engines and reference alone took "
                f"{before:.0f} s; give {needed:.1f} or more."
            )
        if self.space.programs:
            search.try_programs(learned_programs(runner.model, self.guidance), runner.deadline(end))
        if complete or judged:
            search.search_levels(runner.deadline(settings.level_search_end))
        else:
            runner.notes.append(
                "fewer evaluations: not all promising programs were tried, because time ran out; "
                "give more --minutes"
            )
        why_not = try_feature_caches(search, runner.model, runner.deadline(end))
        if why_not is not None:
            runner.notes.append(why_not)

    def _selected(
        self, engines: Sequence[EngineCost], reference: ReferenceSpec, trials: Sequence[Trial]
    ) -> FinalSelection:
        """The finalists, those with the parallel executor included where that is faster."""
        runner = self.runner
        selection = FinalSelection(
            runner=runner,
            engines=engines,
            max_loss=self.max_loss,
            reference=reference,
            batch=self.batch,
        )
        if runner.executor.has_real_pictures:
            selection.select_by_fd(trials, unscreened(self.space, runner.model, self.guidance))
        else:
            selection.select_by_ode_error(trials)
        if not selection.finalists:
            raise UserError(f"no plan could be measured: {runner.unsupported[-1].why}")
        if try_parallel(runner, self.guidance, self.batch):
            selection.add_parallel()
        return selection


def unscreened(space: Space, model: Model, guidance: float) -> list[Trial]:
    """Programs whose ODE error says little about their samples, because they draw noise, begin from
    something cheap or run another network, as trials without an ODE error."""
    plans = space.stochastic(model, guidance) + space.early_starts(model, guidance)
    plans += distilled_students(model, guidance) if space.students else []
    trials = []
    for plan in plans:
        evaluations = plan.trace(subject(model, plan).schedule).evaluations
        trials.append(
            Trial(plan=plan, evaluations=evaluations, ode_error=None, by="none", seconds=0.0)
        )
    return trials


def _front_with(chosen: Finalist, finalists: Sequence[Finalist]) -> list[Finalist]:
    """The front in latency, loss and missed real pictures, and ``chosen``, fastest first."""
    best = front(
        finalists,
        lambda finalist: finalist.latency.median,
        lambda finalist: finalist.loss,
        lambda finalist: finalist.missed,
    )
    if chosen not in best:
        best = sorted([*best, chosen], key=lambda finalist: finalist.latency.median)
    return best


def _unique(trials: Sequence[Trial]) -> tuple[Trial, ...]:
    """One trial a plan, the first of each."""
    first = {str(trial.plan): trial for trial in reversed(trials)}
    return tuple(reversed(first.values()))
