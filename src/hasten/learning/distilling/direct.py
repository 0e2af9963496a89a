"""Direct distillation (Luhman & Luhman 2101.02388): noise to picture in one evaluation.

The teacher's deterministic sampler is a function from noise to picture; the student is regressed on
its pairs. Simple and stable; squared loss averages what it cannot tell apart, so pictures are soft.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from hasten.core.errors import require
from hasten.core.model import Model
from hasten.learning.distilling.base import Classroom, Distillation, Stage, objectives
from hasten.learning.distilling.belief import Levels, believed
from hasten.learning.distilling.compare import Seen
from hasten.learning.objective import Batch


@objectives.add("direct")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Direct(Distillation):
    """Squared loss between the student's one answer and the teacher's picture (their eq. 6)."""

    needs = "paths"
    compares = True

    def check(self, teacher: Model, evaluations: int) -> None:
        require(
            evaluations == 1,
            f"evaluations is {evaluations}, but objective 'direct' makes students of 1; set 1, or "
            "use 'trajectory', 'progressive' or 'consistency'.",
        )

    def objective(self, room: Classroom, stage: Stage) -> Regression:
        return Regression(student=room.student, seen=room.seen)

    def plans(self, student: Model, evaluations: int) -> list[dict[str, Any]]:
        return [{"solver": "ddim", "grid": "uniform", "steps": 1}]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Regression:
    """Rows are (n, 2, c, h, w): standard normal noise, and the picture it leads to."""

    student: Model
    seen: Seen

    def loss(self, net: torch.nn.Module, batch: Batch) -> torch.Tensor:
        noise, picture = batch.rows[:, 0], batch.rows[:, -1]
        top = self.student.path.at(self.student.path.noisy)
        answer = believed(
            self.student, net, top.spread * noise, Levels.same(top, len(noise)), batch.labels
        )
        apart = (self.seen(answer) - self.seen(picture)).square().sum(1)
        return apart.mean() / picture[0].numel()
