"""Teach a student to answer something else than its teacher, before anything is distilled.

What the teacher believes is the mean of all pictures that may lie behind a noisy one, without the
scatter of a single picture, so it teaches faster than data do. Where there is hardly any signal, a
teacher that tells the noise knows nothing, and the picture itself is the target.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import torch

from hasten.core.level import Level
from hasten.core.model import Model
from hasten.learning.students.batched_denoiser import Levels, Teacher
from hasten.training.noise_prediction import columns, draw_positions
from hasten.training.objective import Batch
from hasten.training.recipe import Times

KNOWS = 10.0  # sigma / alpha up to which the teacher is asked


@dataclasses.dataclass(frozen=True, kw_only=True)
class Conversion:
    """Squared error of the student's answer, in its own unit, at uniform positions; ``teacher`` is
    None where it is on another path."""

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
            (asked,) = columns(x0, (at.ratio < KNOWS).astype(np.float64))
            believed = self.teacher(x, at, batch.labels)
            bound = self.student.codec.bound
            believed = believed if bound is None else believed.clamp(-bound, bound)
            target = torch.where(asked > 0, believed, x0)
        here = self.student.prediction.at(Level.batch(at.t, at.alpha, at.sigma))
        t, scale, skip, out = columns(
            x0, at.t, here.scale, here.skip, np.broadcast_to(here.out, len(x0))
        )
        answer = net(scale * x, t.flatten(), batch.labels).float()
        return torch.nn.functional.mse_loss(answer, (target - skip * x) / out)
