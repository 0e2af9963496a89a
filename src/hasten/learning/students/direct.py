"""Direct distillation (Luhman & Luhman 2101.02388): noise to picture in one evaluation.

The teacher's deterministic sampler is a function from noise to picture; the student is regressed on
its pairs. Simple and stable; squared loss averages what it cannot tell apart, so pictures are soft.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch

from hasten.core.errors import require_number
from hasten.core.level import Array, Level
from hasten.core.model import Model
from hasten.core.noise_schedule import NoiseSchedule
from hasten.learning.students.base import (
    Distillation,
    DistillationSetup,
    PlanFields,
    Stage,
    objectives,
)
from hasten.learning.students.batched_denoiser import Levels, denoised
from hasten.learning.students.compare import Comparison
from hasten.learning.students.consistency_base import consistency_plans, middle_ratio, places_down
from hasten.training.columns import column
from hasten.training.objective import Batch


@objectives.add("direct")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Direct(Distillation):
    """The distance between the student's answer and the end of the teacher's trajectory, to
    ``power`` (2 is their eq. 6; 1 is less soft).

    For several evaluations it is trained at every level of its plan, on states of the same
    trajectory, and sampled as a consistency model is; ``middle`` is sigma / alpha at the second of
    two.
    """

    power: float = 2.0
    middle: float | None = None

    needs = "trajectories"
    compares = True

    def __post_init__(self) -> None:
        require_number("objective option power", self.power, 0.5, 4.0)

    def trajectory_levels(
        self, schedule: NoiseSchedule, evaluations: int
    ) -> Sequence[tuple[Level, ...]]:
        places = self._places(schedule, evaluations)
        return [tuple(schedule.at(place) for place in (*places, schedule.clean))]

    def _places(self, schedule: NoiseSchedule, evaluations: int) -> list[float]:
        return places_down(schedule, evaluations, middle_ratio(schedule, self.middle))

    def objective(self, setup: DistillationSetup, stage: Stage) -> Regression:
        places = np.array(self._places(setup.student.schedule, stage.evaluations))
        return Regression(
            student=setup.student, compare=setup.compare, places=places, power=self.power
        )

    def plans(self, student: Model, evaluations: int) -> list[PlanFields]:
        if evaluations == 1:
            return [{"solver": "ddim", "grid": "uniform", "steps": 1}]
        return consistency_plans(student, evaluations, middle_ratio(student.schedule, self.middle))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Regression:
    """Rows are (n, 1 + states, *shape): standard normal noise, the states of its trajectory at
    ``places`` after the first, and the picture it leads to."""

    student: Model
    compare: Comparison
    places: Array
    power: float

    def loss(self, net: torch.nn.Module, batch: Batch) -> torch.Tensor:
        schedule, picture, n = self.student.schedule, batch.rows[:, -1], len(batch.rows)
        draw = torch.randint(
            len(self.places), (n,), generator=batch.generator, device=picture.device
        )
        x = batch.rows[torch.arange(n, device=draw.device), draw]
        spread = schedule.at(schedule.noisy).spread
        first = column(draw == 0, x)
        x = torch.where(first, spread * x, x)
        at = Levels.at_positions(schedule, self.places[draw.cpu().numpy()])
        answer = denoised(self.student, net, x, at, batch.labels)
        apart = (self.compare(answer) - self.compare(picture)).square().sum(1) / picture[0].numel()
        return apart.clamp(min=1e-20).pow(self.power / 2).mean()
