"""Distribution matching distillation, DMD (Yin et al. 2311.18828 and 2405.14867): the student's
pictures are moved until two scores agree on them, the teacher's and that of a second network that
learns what the student makes.

A finisher, begun with another student's weights (``begin``): its pictures are sharp where
regression averages, and it may lose modes (look at recall). Three networks are in memory.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence

import torch

from hasten.core.errors import require_number, require_whole
from hasten.core.level import Level
from hasten.core.model import Model
from hasten.learning.students.base import (
    Distillation,
    DistillationSetup,
    NetworkPair,
    PlanFields,
    Stage,
    objectives,
)
from hasten.learning.students.batched_denoiser import Levels, Teacher, denoised
from hasten.learning.students.consistency_base import consistency_plans, places_down
from hasten.training.columns import column
from hasten.training.noise_prediction import NoisePrediction
from hasten.training.objective import Batch

LOW, HIGH = 0.02, 0.98  # of the schedule, where scores are compared


@objectives.add("dmd")
@dataclasses.dataclass(frozen=True, kw_only=True)
class DistributionMatching(Distillation):
    """One evaluation, or several with new noise in between, trained on what the student itself made
    of the evaluations before (their backward simulation).

    ``every``: steps of the second network for one of the student (two-time-scale updates);
    ``regression``: the weight of the squared distance of one evaluation's picture from the
    teacher's of the same noise, which holds the modes together; ``middle``: sigma / alpha at the
    second of two evaluations.
    """

    every: int = 5
    regression: float = 0.25
    middle: float = 0.8

    needs = "trajectories"

    def __post_init__(self) -> None:
        require_whole("objective option every", self.every, 1, 1000)
        require_number("objective option regression", self.regression, 0.0, 1e3)
        require_number("objective option middle", self.middle, 1e-3, 1e3)

    def module(self, setup: DistillationSetup) -> torch.nn.Module:
        teacher, student = setup.teacher.model, setup.student
        same = teacher.prediction == student.prediction and not teacher.learned_variance
        other = copy.deepcopy(teacher.net if same else student.net)
        return NetworkPair(student.net, other.float().train().requires_grad_(True))

    def objective(self, setup: DistillationSetup, stage: Stage) -> TwoScores:
        schedule = setup.student.schedule
        places = places_down(schedule, stage.evaluations, self.middle)
        levels = tuple(schedule.at(place) for place in places)
        return TwoScores(student=setup.student, teacher=setup.teacher, settings=self, levels=levels)

    def plans(self, student: Model, evaluations: int) -> list[PlanFields]:
        return consistency_plans(student, evaluations, self.middle)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TwoScores:
    """Rows are (n, 2, *shape): standard normal noise, and the teacher's picture of it."""

    student: Model
    teacher: Teacher
    settings: DistributionMatching
    levels: Sequence[Level]

    def loss(self, net: torch.nn.Module, batch: Batch) -> torch.Tensor:
        noise, picture = batch.rows[:, 0], batch.rows[:, -1]
        turn, since = divmod(batch.step, self.settings.every)
        last, mine = turn % len(self.levels), since == 0
        made = self._made(net, noise, batch, last, mine)
        learn = NoisePrediction(schedule=self.student.schedule, prediction=self.student.prediction)
        seen = dataclasses.replace(batch, rows=made.detach())
        loss = learn.loss(_Other(net), seen)
        if not mine:
            return loss
        apart = self._apart(net, made.detach(), batch)
        moved = 0.5 * (made - (made - apart).detach()).square().mean()
        regression = (made - picture).square().mean() if last == 0 else 0.0
        return loss + moved + self.settings.regression * regression

    def _made(
        self, net: torch.nn.Module, noise: torch.Tensor, batch: Batch, last: int, mine: bool
    ) -> torch.Tensor:
        """The student's pictures after evaluation ``last``, the only one that has gradients."""
        x = made = self.levels[0].spread * noise
        for number, level in enumerate(self.levels[: last + 1]):
            at = Levels.same(level, len(x))
            if number > 0:
                x = at.noised(made, batch.randn_like(made))
            with torch.set_grad_enabled(mine and number == last):
                made = denoised(self.student, net, x, at, batch.labels)
        return made

    @torch.no_grad()
    def _apart(self, net: torch.nn.Module, made: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Where the two scores differ, in units of the teacher's distance (2311.18828, eq. 7-8)."""
        schedule = self.student.schedule
        draw = torch.rand(len(made), generator=batch.generator, device=made.device).double()
        share = LOW + (HIGH - LOW) * draw.cpu().numpy()
        at = Levels.at_positions(schedule, schedule.low + share * (schedule.noisy - schedule.low))
        x = at.noised(made, batch.randn_like(made))
        real = self.teacher(x, at, batch.labels)
        fake = denoised(self.student, _Other(net), x, at, batch.labels)
        size = column((made - real).abs().flatten(1).mean(1).clamp(min=1e-5), made)
        return torch.nan_to_num((fake - real) / size)


class _Other(torch.nn.Module):
    """The second network of a :class:`NetworkPair`, through whatever wraps both."""

    def __init__(self, both: torch.nn.Module) -> None:
        super().__init__()
        self._both = [both]  # in a list, so that it is no part of this module

    def forward(
        self, x: torch.Tensor, t: torch.Tensor, condition: torch.Tensor | None = None
    ) -> torch.Tensor:
        return self._both[0](x, t, condition, other=True)
