"""Rectified flow (Liu et al. 2209.03003): straight lines from noise to the picture it leads to.

The teacher's deterministic sampler pairs noises with pictures. A flow that is trained on straight
lines between the two of each pair crosses in few Euler steps, because its lines do not cross.
"""

from __future__ import annotations

import dataclasses

import torch

from hasten.core.errors import require_number
from hasten.core.model import Model
from hasten.core.noise_schedule import Flow
from hasten.learning.students.base import (
    Distillation,
    DistillationSetup,
    PlanFields,
    Stage,
    objectives,
    with_prediction,
)
from hasten.learning.students.batched_denoiser import Levels
from hasten.training.columns import columns
from hasten.training.objective import Batch


@objectives.add("reflow")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Reflow(Distillation):
    """The student is a ``flow`` model, begun from the teacher's weights. Positions are drawn where
    they matter, at both ends: density ~ cosh(``bend`` (2 s - 1)) (2405.20320, section 4.1)."""

    bend: float = 4.0

    needs = "trajectories"
    early = False

    def __post_init__(self) -> None:
        require_number("objective option bend", self.bend, 0.0, 20.0)

    def student(self, teacher: Model) -> Model:
        return dataclasses.replace(with_prediction(teacher, "flow"), schedule=Flow())

    def objective(self, setup: DistillationSetup, stage: Stage) -> Straight:
        return Straight(student=setup.student, bend=self.bend)

    def plans(self, student: Model, evaluations: int) -> list[PlanFields]:
        counts = dict.fromkeys((evaluations, *(n for n in (1, 2) if n < evaluations)))
        return [{"solver": "euler", "grid": "uniform", "steps": n} for n in counts]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Straight:
    """Rows are (n, 2, *shape): standard normal noise, and the picture it leads to. Squared loss on
    the velocity (their eq. 1)."""

    student: Model
    bend: float

    def loss(self, net: torch.nn.Module, batch: Batch) -> torch.Tensor:
        noise, picture = batch.rows[:, 0], batch.rows[:, -1]
        draw = torch.rand(len(noise), generator=batch.generator, device=noise.device).double()
        place = draw.cpu()
        if self.bend > 0:  # the inverse of the law's distribution function
            high = torch.sinh(torch.tensor(self.bend, dtype=torch.float64))
            place = 0.5 + torch.asinh((2 * place - 1) * high) / (2 * self.bend)
        at = Levels.at_positions(self.student.schedule, place.clamp(1e-5, 1.0).numpy())
        (t,) = columns(noise, at.t)
        answer = net(at.noised(picture, noise), t.flatten(), batch.labels).float()
        return torch.nn.functional.mse_loss(answer, noise - picture)
