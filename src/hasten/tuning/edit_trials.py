"""Edits of some frames, timed and compared with the reference edit of the same frames."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar

import torch

from hasten.core.ask import MAIN
from hasten.core.errors import UserError
from hasten.editing.edit import Editor, require_editable
from hasten.editing.edit_plan import EditPlan
from hasten.editing.method import SOURCE, methods
from hasten.editing.stream import Stream
from hasten.sampling import build
from hasten.tuning.budget import OutOfTime
from hasten.tuning.edit_quality import Bar, Comparison, Measures, bars, compared
from hasten.tuning.requests import AnswerT, Outcome, Request
from hasten.tuning.runner import Clock
from hasten.tuning.serialization import Json, to_json
from hasten.tuning.trials import TrialExecutor


@dataclasses.dataclass(frozen=True, kw_only=True)
class EditScore:
    """An edit of ``frames`` frames.

    Attributes:
        seconds: of all of them, without reading and writing files.
        edited, carried: frames the network was asked about, and those that have their edit from a
            key frame; evaluations: of the network a frame that was edited.
        quality: beside the reference.
    """

    frames: int
    seconds: float
    edited: int
    carried: int
    evaluations: int
    quality: Comparison


@dataclasses.dataclass(frozen=True, kw_only=True)
class EditTrial(Request[EditScore]):
    """Edit the first ``frames`` frames, and compare them with the edit by ``reference``;
    ``repetition`` tells repetitions apart."""

    kind: ClassVar[str] = "edit"
    answer_type: ClassVar[type] = EditScore
    settings: EditPlan
    reference: EditPlan
    frames: int
    repetition: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class EditRecord:
    """What is known of an edit.

    Attributes:
        score: on the most frames that it was measured on; cost_s: seconds a frame that measuring
            took in all.
        worst: the bar that is missed by most, or met by least.
        race_s: seconds of all frames, where they were timed again.
    """

    settings: EditPlan
    score: EditScore
    worst: Bar
    cost_s: float
    race_s: tuple[float, ...] = ()

    @staticmethod
    def of(settings: EditPlan, score: EditScore, max_loss: float, cost_s: float) -> EditRecord:
        """The record of an edit that may lose the share ``max_loss``."""
        worst = max(bars(score.quality, max_loss), key=lambda bar: bar.missing)
        return EditRecord(settings=settings, score=score, worst=worst, cost_s=cost_s)

    @property
    def own(self) -> Measures:
        return self.score.quality.own

    @property
    def passes(self) -> bool:
        return self.worst.missing <= 0

    @property
    def frame_s(self) -> float:
        """Seconds a frame: the median of ``race_s``, where there are any."""
        seconds = statistics.median(self.race_s) if self.race_s else self.score.seconds
        return seconds / self.score.frames

    @property
    def rank(self) -> tuple[float, float]:
        """What passes comes first, the fastest before others; then what is nearest to passing."""
        return max(self.worst.missing, 0.0), self.frame_s

    def to_dict(self) -> Json:
        """Plain data, with the settings as text too."""
        facts = {"text": str(self.settings), "passes": self.passes, "frame_s": self.frame_s}
        return {**facts, **to_json(self)}


class TimeIsUp(OutOfTime):
    """The budget ended while frames were edited."""


@dataclasses.dataclass(kw_only=True)
class EditTrials:
    """Edits the frames ``source`` (n, c, h, w) in [0, 1]; the backend of a runner.

    Attributes:
        clock: what edits are timed by; at ``end`` the one that runs is given up.
    """

    executor: TrialExecutor
    source: torch.Tensor
    prompt: object
    source_prompt: object
    clock: Clock
    end: float = math.inf
    isolated = False
    _references: dict[EditPlan, torch.Tensor] = dataclasses.field(default_factory=dict)

    def run(self, request: Request[AnswerT], timeout: float) -> Outcome[AnswerT]:
        """The outcome of an :class:`EditTrial`; ``end`` is kept, whatever ``timeout`` says."""
        assert isinstance(request, EditTrial)
        began, failure, over = self.clock(), "", False
        answer: Any = None
        try:
            answer = self.score(request)
        except TimeIsUp as error:
            failure, over = str(error), True
        except UserError as error:
            failure = str(error)
        except Exception as error:  # an engine may fail in any way
            failure = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        seconds = self.clock() - began
        return Outcome(answer=answer, seconds=seconds, failure=failure, timed_out=over)

    def close(self) -> None:
        """Nothing to end."""

    def score(self, request: EditTrial) -> EditScore:
        """Carry out ``request``.

        Raises:
            UserError: the edit cannot be made, or the reference changes nothing.
            TimeIsUp: the budget ended.
        """
        made, seconds, stream = self.edited(request.settings, request.frames)
        if request.settings == request.reference:
            self._references[request.reference] = made
        reference = self._references.get(request.reference)
        if reference is None or len(reference) < request.frames:
            reference = self.edited(request.reference, request.frames)[0]
            self._references[request.reference] = reference
        source, reference = self.source[: request.frames], reference[: request.frames]
        return EditScore(
            frames=request.frames,
            seconds=seconds,
            edited=stream.edited,
            carried=stream.carried,
            evaluations=stream.editor.program.evaluations,
            quality=compared(source, made, reference, self.prompt),
        )

    def editor(self, settings: EditPlan) -> Editor:
        """The edit by ``settings``, with a network that all of equal networks share.

        Raises:
            UserError: the plan cannot be run here, or not by the method.
        """
        assert settings.plan is not None
        net = self.executor.prepared(settings.plan)
        sampler = build(self.executor.model, settings.plan, net=net)
        require_editable(sampler)
        return Editor.of(sampler, methods.parse(settings.method), masked=False)

    def edited(self, settings: EditPlan, frames: int) -> tuple[torch.Tensor, float, Stream]:
        """The edit of the first ``frames`` frames, the seconds that it took, and the stream.

        Raises:
            TimeIsUp: the budget ended meanwhile.
        """
        model, editor = self.executor.model, self.editor(settings)
        conditions = {
            MAIN: model.condition(1, self.prompt),
            SOURCE: model.condition(1, self.source_prompt),
        }
        seed = self.executor.seed
        stream = Stream(editor, conditions, seed=seed, settings=settings.streaming)
        began = self.clock()
        made = torch.stack(list(self._in_time(stream(self._in_time(self.source[:frames])))))
        return made, self.clock() - began, stream

    def _in_time(self, frames: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
        for frame in frames:
            if self.clock() > self.end:
                raise TimeIsUp("time ran out while frames were edited; give more --minutes.")
            yield frame
