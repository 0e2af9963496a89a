"""Which plans become finalists: those that get a full report and, with real pictures, a Fréchet
distance of many samples.

With real pictures FD decides: of few samples of the programs of least ODE error, level by level of
evaluations down to where none passes; then of many samples of the best. Solvers that draw noise and
plans that begin below the noisiest level are not screened by ODE error and come in here. Without
real pictures, ODE error on more samples decides.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from hasten.core.lever import Trait
from hasten.core.plan import Plan
from hasten.measuring.quality import Quality
from hasten.tuning.candidates import RaceRules
from hasten.tuning.recommendation import most_faithful, passes, shares_pass
from hasten.tuning.records import QUALITY, EngineCost, Finalist, FinalQuality, Trial
from hasten.tuning.requests import CompareFd, MeasureQuality, MeasureReport, ReferenceSpec
from hasten.tuning.runner import TrialRunner
from hasten.tuning.settings import TunerSettings


@dataclasses.dataclass(frozen=True, kw_only=True)
class JudgedTrial:
    """A trial with the quality of few samples against real pictures."""

    trial: Trial
    quality: Quality

    @property
    def fd(self) -> float:
        return self.quality.fd.value


@dataclasses.dataclass(kw_only=True)
class FinalSelection:
    """Narrows the trials down to ``finalists``.

    Attributes:
        engines: what a network call costs in each engine, fastest first.
        reference: the reference solution that ODE errors are measured against.
        batch: how many samples at a time the plan is for.
    """

    runner: TrialRunner
    engines: Sequence[EngineCost]
    max_loss: float
    reference: ReferenceSpec
    batch: int
    finalists: list[Finalist] = dataclasses.field(default_factory=list)

    @property
    def settings(self) -> TunerSettings:
        return self.runner.settings

    @property
    def throughput_batch(self) -> int:
        """How many samples at a time throughput is measured with."""
        return max(self.batch, self.runner.budget.throughput_batch(self.runner.executor.max_batch))

    def select_by_ode_error(self, trials: Sequence[Trial]) -> None:
        """Full reports level by level of evaluations, from the cheapest that passed on, until two
        levels pass on all samples; where none passed, of the most evaluations."""
        by_level = by_evaluations(trials, (), self.settings.trials_per_level)
        passing = [trial.evaluations for trial in trials if trial.passes(self.max_loss)]
        start = min(passing, default=max(by_level))
        passed_levels = 0
        for level in [level for level in by_level if level >= start]:
            reported = len(self.finalists)
            for trial in by_level[level]:
                self._report_in_best_engine(trial)
            errors = [finalist.report.ode_error for finalist in self.finalists[reported:]]
            passed_levels += any(error and error.high <= self.max_loss for error in errors)
            if passed_levels > 1:
                break

    def _report_in_best_engine(self, trial: Trial) -> None:
        """A report in the fastest engine; where its precision spoils the program, in the fastest
        float32 engine too."""
        float32 = next(cost for cost in self.engines if cost.dtype == "float32")
        finalist = self._add(self.in_engine(trial.plan, self.engines[0]))
        spoiled = finalist is None or finalist.rmse > self.settings.precision_loss * trial.rmse
        if spoiled and float32 is not self.engines[0]:
            self._add(self.in_engine(trial.plan, float32))

    def select_by_fd(self, trials: Sequence[Trial], unscreened: Sequence[Trial]) -> None:
        """FD of few samples of promising programs; full reports of the best; FD of as many samples
        as there is time for of the fastest that may pass."""
        settings, runner = self.settings, self.runner
        faithful = self._faithful(trials)
        samples = settings.screening_samples
        estimated_s = samples * faithful.evaluations * runner.budget.sample_s
        if estimated_s > runner.seconds_until(settings.screening_end):
            runner.notes.append(
                f"FD: not measured, because {samples} samples take about {estimated_s:.0f} s here, "
                "more than is left; ODE error decides"
            )
            return self.select_by_ode_error(trials)
        judged = self._judge_by_level(faithful, trials, unscreened)
        first = self._finalist_of(judged[0]) if judged else None
        if first is None:
            return self.select_by_ode_error(trials)
        first = self._replace(first, dataclasses.replace(first, faithful=True))
        bar = self._fd_bar(judged[0])
        order = sorted(
            judged[1:], key=lambda judgement: (judgement.fd > bar, judgement.trial.evaluations)
        )
        for candidate in order[: settings.max_reports - 1]:
            self._finalist_of(candidate)
        may_pass = [finalist for finalist in self.finalists if self._may_pass(finalist, first, bar)]
        may_pass.sort(key=lambda finalist: (finalist.report.evaluations, finalist.loss))
        self._judge_finally(first, may_pass[: settings.final_candidates])
        return None

    def _may_pass(self, finalist: Finalist, faithful: Finalist, bar: float) -> bool:
        """Whether few samples leave a chance: FD below ``bar``, recall and prompt accuracy not
        measurably too low."""
        fd = finalist.report.fd
        below = fd is not None and fd.value <= bar
        return below and shares_pass(finalist.report, faithful.report, self.max_loss)

    def _judge_finally(self, first: Finalist, others: Sequence[Finalist]) -> None:
        """The final quality of the most faithful plan and of ``others``, of as many samples as
        there is time for."""
        chosen = list({finalist.report.key: finalist for finalist in (first, *others)}.values())
        sample_s = sum(1 / finalist.report.throughput.pictures_per_s for finalist in chosen)
        seconds_left, options = self.runner.seconds_until(), self.settings.final_samples
        samples = next((n for n in options if n * sample_s <= seconds_left), options[-1])
        for finalist in chosen:
            self._add_final_quality(finalist, first, samples)

    def _add_final_quality(self, finalist: Finalist, first: Finalist, samples: int) -> None:
        """The quality of ``samples`` samples, and how much worse FD is than the faithful plan's."""
        quality = self._quality(finalist.plan, samples)
        if quality is None:
            return
        excess = None
        if finalist.report.key != first.report.key:
            request = CompareFd(
                plan=finalist.plan,
                baseline=first.plan,
                samples=samples,
                allowed_excess=self.max_loss,
            )
            excess = self.runner.run(request, "comparing FD")
        final_quality = FinalQuality(quality=quality, excess_fd=excess)
        self._replace(finalist, dataclasses.replace(finalist, final_quality=final_quality))

    def _finalist_of(self, judged: JudgedTrial) -> Finalist | None:
        """The full report of a trial whose FD was measured."""
        finalist = self._add(self.in_engine(judged.trial.plan, self.engines[0]))
        if finalist is None:
            return None
        return self._replace(finalist, finalist.with_quality(judged.quality))

    def _faithful(self, trials: Sequence[Trial]) -> Trial:
        """The cheapest trial that is as good as the reference, else that of least ODE error; by the
        upper ends of the intervals, because the error of few pictures may be small by luck."""
        enough = self.settings.enough_share * self.max_loss
        converged = [trial for trial in trials if _highest(trial) <= enough]
        if converged:
            return min(converged, key=lambda trial: trial.evaluations)
        return min(trials, key=_highest)

    def _judge_by_level(
        self, faithful: Trial, trials: Sequence[Trial], unscreened: Sequence[Trial]
    ) -> list[JudgedTrial]:
        """Trials with the quality of few samples: the faithful one's, the students', then level by
        level of evaluations, downwards from the cheapest whose ODE error passes while some pass,
        else upwards."""
        first = self._judge(faithful)
        if first is None:
            return []
        judged, bar = [first], self._fd_bar(first)
        students = [trial for trial in unscreened if trial.plan.has(Trait.REPLACES)]
        judged += self._judge_all(students)
        others = [trial for trial in unscreened if not trial.plan.has(Trait.REPLACES)]
        by_level = by_evaluations(trials, others, self.settings.trials_per_level)
        passing = [trial.evaluations for trial in trials if trial.passes(self.max_loss)]
        start = min(passing, default=faithful.evaluations)
        down = sorted((level for level in by_level if level <= start), reverse=True)
        up = [level for level in by_level if start < level < faithful.evaluations]
        for levels in (down, up):
            for level in levels:
                if self.runner.seconds_until(self.settings.screening_end) < 0:
                    return judged
                rest = [trial for trial in by_level[level] if trial.plan != faithful.plan]
                if not rest:
                    continue
                here = self._judge_all(rest)
                judged += here
                if any(judgement.fd <= bar for judgement in here) == (levels is up):
                    break
            if any(judgement.fd <= bar for judgement in judged[1:]):
                break
        return judged

    def _fd_bar(self, faithful: JudgedTrial) -> float:
        """FD of few samples above which a plan is dropped."""
        return self.settings.screening_margin * (1 + self.max_loss) * faithful.fd

    def _judge_all(self, trials: Sequence[Trial]) -> list[JudgedTrial]:
        return [judged for trial in trials if (judged := self._judge(trial)) is not None]

    def _judge(self, trial: Trial) -> JudgedTrial | None:
        plan = self.in_engine(trial.plan, self.engines[0])
        quality = self._quality(plan, self.settings.screening_samples)
        return None if quality is None else JudgedTrial(trial=trial, quality=quality)

    def _quality(self, plan: Plan, samples: int) -> Quality | None:
        request = MeasureQuality(plan=plan, samples=samples)
        return self.runner.run(request, f"FD of {samples} samples of {plan}")

    def _add(self, plan: Plan, late: bool = False) -> Finalist | None:
        """The finalist ``plan``; None where it cannot be measured, or where time is up and ``late``
        is not given, once there are a few finalists."""
        request = MeasureReport(
            plan=plan,
            reference=self.reference,
            batch=self.throughput_batch,
            seconds=self.settings.report_s,
        )
        time_is_up = self.runner.seconds_until(self.settings.reports_end) < 0
        enough = len(self.finalists) >= self.settings.min_reports
        if not late and enough and time_is_up and request not in self.runner.journal:
            return None
        report = self.runner.run(request, f"measuring {plan}")
        if report is None:
            return None
        self.finalists.append(Finalist(report=report))
        return self.finalists[-1]

    def _replace(self, old: Finalist, new: Finalist) -> Finalist:
        """Put ``new`` in the place of ``old``."""
        place = next(i for i, finalist in enumerate(self.finalists) if finalist is old)
        self.finalists[place] = new
        return new

    def in_engine(self, plan: Plan, cost: EngineCost) -> Plan:
        """``plan`` in that engine and dtype, on the model's device."""
        changes = {"engine": cost.engine, "dtype": cost.dtype}
        device = self.runner.model.device.type
        return plan.model_copy(update={**changes, "device": device})

    def add_parallel(self) -> None:
        """Reports of the finalists of many evaluations with the parallel executor, which makes the
        same samples."""
        settings = self.settings
        expensive = [
            finalist
            for finalist in self.finalists
            if finalist.report.evaluations >= settings.many_evaluations
        ]
        expensive.sort(key=lambda finalist: -finalist.report.evaluations)
        for in_order in expensive[: settings.expensive_plans]:
            if self.runner.seconds_until(settings.reports_end) < 0:
                return
            changes = {
                "engine": "eager",
                "dtype": "float32",
                "device": self.runner.model.device.type,
            }
            changes["executor"] = settings.parallel_executor
            parallel = self._add(in_order.plan.model_copy(update=changes))
            if parallel is not None:
                same = {name: getattr(in_order.report, name) for name in QUALITY}
                report = dataclasses.replace(parallel.report, **same)
                final_quality = in_order.final_quality
                self._replace(parallel, Finalist(report=report, final_quality=final_quality))

    def leader(self) -> Finalist | None:
        """The fastest finalist that passes, by its report."""
        closest = most_faithful(self.finalists)
        judged = any(finalist.final_quality for finalist in self.finalists)
        passing = [
            finalist
            for finalist in self.finalists
            if passes(finalist, closest, self.max_loss, judged)
        ]
        return min(passing, key=lambda finalist: finalist.report.latency_ms.median, default=None)

    def add_variant(self, plan: Plan, like: Finalist) -> None:
        """The report and the quality of ``plan``, measured as those of the finalist ``like``."""
        finalist = self._add(plan, late=True)
        if finalist is None or like.final_quality is None:
            return
        quality = self._quality(plan, self.settings.screening_samples)
        if quality is not None:
            finalist = self._replace(finalist, finalist.with_quality(quality))
        first = next(finalist for finalist in self.finalists if finalist.faithful)
        self._add_final_quality(finalist, first, like.final_quality.quality.fd.n)

    def race_rules(self, seconds: float) -> RaceRules:
        """How plans are timed in turn that take ``seconds`` in all: fewer rounds of slow ones."""
        affordable = int(self.runner.reserve_s / max(seconds, 1e-9))
        settings = self.settings
        return RaceRules(
            batch=self.batch,
            rounds=settings.race_rounds,
            seconds=settings.race_s,
            min_rounds=max(1, min(settings.min_race_rounds, affordable)),
        )


def by_evaluations(
    screened: Sequence[Trial], unscreened: Sequence[Trial], trials_per_level: int
) -> dict[int, list[Trial]]:
    """By evaluations, ascending: the ``trials_per_level`` trials of least ODE error, and what was
    not screened of as many evaluations."""
    levels: dict[int, list[Trial]] = {}
    for trial in sorted(screened, key=lambda trial: (trial.evaluations, trial.rmse)):
        level = levels.setdefault(trial.evaluations, [])
        known = {other.rmse for other in level}  # equal errors are one program by two names
        if len(level) < trials_per_level and trial.rmse not in known:
            level.append(trial)
    for trial in unscreened:
        if trial.evaluations in levels:
            levels[trial.evaluations].append(trial)
    return levels


def _highest(trial: Trial) -> float:
    """The upper end of the interval of the trial's ODE error."""
    return math.inf if trial.ode_error is None else trial.ode_error.high
