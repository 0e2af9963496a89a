"""Teach a student another prediction than its teacher's, before anything is distilled.

The teacher's x0 is the mean of all pictures that may lie behind a noisy one, without the scatter of
a single picture, so it teaches faster than data do. Where there is hardly any signal, a teacher
that predicts epsilon has no accurate x0, and the picture itself is the target.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import torch

from hasten.core.level import Level
from hasten.core.model import Model
from hasten.learning.students.batched_denoiser import Levels, Teacher
from hasten.training.columns import columns
from hasten.training.noise_prediction import draw_positions
from hasten.training.objective import Batch
from hasten.training.recipe import Times

RELIABLE = 10.0  # sigma / alpha up to which the teacher is evaluated


@dataclasses.dataclass(frozen=True, kw_only=True)
class Conversion:
    """Squared error of the student's answer, in its own unit, at uniform positions; ``teacher`` is
    None where it has another noise schedule."""

    student: Model
    teacher: Teacher | None

    def loss(self, net: torch.nn.Module, batch: Batch) -> torch.Tensor:
        x0, noise, schedule = batch.rows, batch.randn_like(batch.rows), self.student.schedule
        at = Levels.at_positions(
            schedule, draw_positions(schedule, Times(), len(x0), batch.generator)
        )
        x = at.noised(x0, noise)
        target = x0
        if self.teacher is not None:
            (reliable,) = columns(x0, (at.ratio < RELIABLE).astype(np.float64))
            predicted = self.teacher(x, at, batch.labels)
            bound = self.student.codec.bound
            predicted = predicted if bound is None else predicted.clamp(-bound, bound)
            target = torch.where(reliable > 0, predicted, x0)
        here = self.student.prediction.at(Level.batch(at.t, at.alpha, at.sigma))
        t, scale, skip, out = columns(
            x0, at.t, here.scale, here.skip, np.broadcast_to(here.out, len(x0))
        )
        answer = net(scale * x, t.flatten(), batch.labels).float()
        return torch.nn.functional.mse_loss(answer, (target - skip * x) / out)
