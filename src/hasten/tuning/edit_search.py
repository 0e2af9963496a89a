"""The search for the fastest edit that is as good as the reference edit.

What is known to be good comes first: methods on few steps, every frame edited, in a ranked list.
Successive halving (Jamieson & Talwalkar 1502.07943) measures all on few frames, and the better half
on twice as many. The best then try how frames share the network, by halving up to the whole clip;
then engines; and the fastest that pass are timed in turn. Whatever was measured on the whole clip
may be recommended.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from hasten.core.errors import UserError
from hasten.core.model import Model
from hasten.core.plan import Plan
from hasten.editing.edit_plan import EditPlan
from hasten.tuning.budget import OutOfTime
from hasten.tuning.edit_space import in_engines, program, programs, streams
from hasten.tuning.edit_trials import EditRecord, EditScore, EditTrial, EditTrials
from hasten.tuning.runner import TrialRunner
from hasten.tuning.space import Space


@dataclasses.dataclass(frozen=True, kw_only=True)
class EditSearchSettings:
    """How the search spends its time; shares are of the budget.

    Attributes:
        reference_steps: of the reference edit, the most that time allows; reference_share: of the
            budget that it may take.
        first_frames, program_frames: the fewest and the most that methods and steps are tried on;
            stream_frames: the fewest for what frames share.
        kept: candidates that go on to more frames, at least; tried_on: the best that streams and
            engines are tried on.
        programs_end, streams_end: when these phases end. Engines end where the time begins that is
            kept for the race.
        finalists, rounds: of the race.
        margin: how many times longer a measurement may take than is expected.
    """

    reference_steps: tuple[int, ...] = (50, 30, 20)
    reference_share: float = 0.2
    first_frames: int = 2
    program_frames: int = 16
    stream_frames: int = 8
    kept: int = 4
    tried_on: int = 3
    programs_end: float = 0.5
    streams_end: float = 0.85
    finalists: int = 4
    rounds: int = 3
    margin: float = 1.2


@dataclasses.dataclass(kw_only=True)
class EditSearch:
    """Measures edits; ``records`` holds each on the most frames that it was measured on.

    Attributes:
        method: of the reference edit, whose settings are ``reference`` once they are known.
        max_loss: the share that may be lost against it.
        whole: how many frames all is about; not_tried: measurements left out for lack of time.
    """

    runner: TrialRunner
    trials: EditTrials
    space: Space
    method: str
    guidance: float
    max_loss: float
    settings: EditSearchSettings = dataclasses.field(default_factory=EditSearchSettings)
    records: dict[EditPlan, EditRecord] = dataclasses.field(default_factory=dict)
    reference: EditPlan = dataclasses.field(default_factory=EditPlan)
    whole: int = 0
    not_tried: int = 0
    _raced: tuple[EditPlan, ...] = ()
    _evaluation_s: float = 0.0

    def run(self) -> None:
        """All phases.

        Raises:
            UserError: the reference edit cannot be made or changes nothing, or there is no time for
                it.
        """
        deadline, numbers = self.runner.deadline, self.settings
        self._make_reference()
        few = min(numbers.program_frames, self.whole)
        rungs = doubled(min(numbers.first_frames, few), few)
        ways = programs(self._model, self.method, self.guidance)
        best = self._halved(ways, rungs, deadline(numbers.programs_end))
        if self.whole > 1:
            ways = [way for one in best[: numbers.tried_on] for way in streams(one, self.whole)]
            rungs = doubled(min(numbers.stream_frames, self.whole), self.whole)
            self._halved(ways, rungs, deadline(numbers.streams_end))
        self._measure_whole()
        leaders = [each.settings for each in self.ranked() if each.passes][: numbers.tried_on]
        for way in in_engines(leaders, self.space, self._model, self.whole):
            new = way not in self.records
            if new and self._measured(way, self.whole, deadline()) is not None:
                self._time_again((way,), range(1, 2))  # its engine is prepared now
        passing = [each.settings for each in self.ranked() if each.passes]
        self._raced = tuple(passing[: numbers.finalists])
        if len(self._raced) > 1:
            self._time_again(self._raced, range(2, 2 + numbers.rounds))

    @property
    def _model(self) -> Model:
        return self.trials.executor.model

    def ranked(self) -> list[EditRecord]:
        """What was measured on the whole clip: first what passes, the fastest of the race first."""
        whole = [each for each in self.records.values() if each.score.frames == self.whole]
        return sorted(whole, key=lambda each: (each.settings not in self._raced, each.rank))

    def _make_reference(self) -> None:
        """Measure the reference edit, with as many steps and on as many frames as time allows."""
        quick = program(self._model, self.method, 2, self.guidance)
        self.trials.edited(quick, 1)
        _, seconds, stream = self.trials.edited(quick, 1)
        self._evaluation_s = seconds / stream.editor.program.evaluations
        there, minutes = len(self.trials.source), self.runner.minutes
        frame_s = self._choose_reference(there)
        if self.whole < min(there, 2):
            needed = min(there, 2) * frame_s
            enough = math.ceil(needed / self.settings.reference_share / 60)
            raise OutOfTime(
                f"the reference edit of {min(there, 2)} frames takes {needed:.0f} s here; give "
                f"--minutes {enough} or more."
            )
        if self.whole < there:
            self.runner.notes.append(
                f"only the first {self.whole} of {there} frames were edited; give --minutes "
                f"{math.ceil(minutes * there / self.whole)} for all of them"
            )
        if self._measured(self.reference, self.whole, self.trials.end) is None:
            if self.runner.unsupported:
                raise UserError(self.runner.unsupported[-1].why)
            raise OutOfTime(
                f"time ran out over the reference edit; give --minutes {2 * minutes:g} or more."
            )

    def _choose_reference(self, there: int) -> float:
        """Set ``reference`` and ``whole``, of the frames that are ``there``; the seconds that a
        frame is expected to take."""
        allowed, frame_s = self.settings.reference_share * self.runner.seconds, 0.0
        for steps in self.settings.reference_steps:
            self.reference = program(self._model, self.method, steps, self.guidance)
            frame_s = max(self._predicted(self.reference, 1), 1e-9)
            self.whole = min(there, int(allowed / frame_s))
            if self.whole >= min(there, self.settings.program_frames):
                break
        return frame_s

    def _halved(
        self, candidates: Sequence[EditPlan], rungs: Sequence[int], end: float
    ) -> list[EditPlan]:
        """Measure the candidates on more and more frames, the better half of them each time; the
        best of the last rung first."""
        alive, ranked = list(dict.fromkeys(candidates)), []
        for frames in rungs:
            measured = [self._measured(each, frames, end) for each in alive]
            there = [record for record in measured if record is not None]
            if not there:
                break
            ranked = [each.settings for each in sorted(there, key=lambda each: each.rank)]
            alive = ranked[: max(self.settings.kept, math.ceil(len(ranked) / 2))]
        return ranked

    def _measure_whole(self) -> None:
        """Measure on the whole clip what passed on less, the fastest first, until ``kept`` edits
        pass there. While the reference alone does, the time that is kept for the race is free."""
        for record in sorted(self.records.values(), key=lambda each: each.rank):
            passing = sum(each.passes for each in self.ranked())
            if passing >= self.settings.kept or not record.passes:
                return
            end = self.runner.deadline() if passing > 1 else self.trials.end
            self._measured(record.settings, self.whole, end)

    def _measured(self, settings: EditPlan, frames: int, end: float) -> EditRecord | None:
        """The record of an edit on the first ``frames`` frames; None where it cannot be made, or
        not until ``end``."""
        known = self.records.get(settings)
        if known is not None and known.score.frames >= frames:
            return known
        try:
            needed = self.settings.margin * self._predicted(settings, frames)
        except UserError as error:
            self.runner.refuse(settings.plan or Plan(), str(error))
            return None
        request = EditTrial(settings=settings, reference=self.reference, frames=frames)
        if request not in self.runner.journal and self.runner.clock() + needed > end:
            self.not_tried += 1
            return None
        score, seconds = self._score(request)
        if score is None:
            return None
        record = EditRecord.of(settings, score, self.max_loss, seconds / frames)
        self.records[settings] = record
        return record

    def _score(self, request: EditTrial) -> tuple[EditScore | None, float]:
        """The answer, None where there is none, and the seconds that it took in all."""
        settings = request.settings
        outcome = self.runner.outcome(request, f"{settings.method}, {request.frames} frames")
        if outcome.timed_out:
            self.not_tried += 1
        elif outcome.answer is None:
            self.runner.refuse(settings.plan or Plan(), outcome.failure)
        return outcome.answer, outcome.seconds

    def _predicted(self, settings: EditPlan, frames: int) -> float:
        """Seconds that measuring an edit of so many frames takes."""
        known = self.records.get(settings)
        if known is not None:
            return known.cost_s * frames
        evaluations = self.trials.editor(settings).program.evaluations
        return evaluations * math.ceil(frames / settings.every) * self._evaluation_s

    def _time_again(self, ways: Sequence[EditPlan], rounds: range) -> None:
        """Time edits of the whole clip in turn, every other round backwards, while time lasts."""
        round_s = sum(self.records[way].cost_s for way in ways) * self.whole
        times: dict[EditPlan, list[float]] = {way: [] for way in ways}
        for number in rounds:
            if self.runner.clock() + self.settings.margin * round_s > self.trials.end:
                break
            for way in ways if number % 2 else ways[::-1]:
                request = EditTrial(
                    settings=way, reference=self.reference, frames=self.whole, repetition=number
                )
                score, _ = self._score(request)
                times[way] += [] if score is None else [score.seconds]
        if all(times.values()):
            for way, seconds in times.items():
                again = dataclasses.replace(self.records[way], race_s=tuple(seconds))
                self.records[way] = again


def doubled(first: int, last: int) -> tuple[int, ...]:
    """``first``, twice as many, and so on; ``last`` is the last."""
    out = [first]
    while 2 * out[-1] < last:
        out.append(2 * out[-1])
    return tuple(dict.fromkeys([*out, last]))
