"""Continuous-time consistency models (Lu & Song 2410.11081): the two levels meet.

In their TrigFlow, x = cos(a) x0 + sin(a) z and f(x, a) = cos(a) x - sin(a) F(x, a): a network that
predicts v on a variance-preserving schedule, with a = arctan(sigma / alpha). The tangent df/da
along the trajectory comes from a Jacobian-vector product.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.parallel import DistributedDataParallel

from hasten.core.errors import UserError, require, require_number
from hasten.core.level import Array
from hasten.core.model import Model
from hasten.core.noise_schedule import NoiseSchedule
from hasten.learning.students.base import (
    DistillationSetup,
    Stage,
    objectives,
    with_prediction,
)
from hasten.learning.students.batched_denoiser import Levels, Teacher, draw_ratios
from hasten.learning.students.consistency_base import ConsistencyStudent, same_masks
from hasten.training.columns import column, columns
from hasten.training.objective import Batch

STEP = 1e-3  # of the angle, for the slope of the network's time
FLOOR = 0.1  # added to the norm of the tangent (their section 4.2)


@objectives.add("continuous-consistency")
@dataclasses.dataclass(frozen=True, kw_only=True)
class ContinuousConsistency(ConsistencyStudent):
    """Tangents are normalised and warmed up; the adaptive weight is left out, since a normalised
    tangent bounds the loss at every level.

    ``distill``: along the teacher's trajectory (sCD), else along that of the data (sCT);
    ``mean``, ``std``: of ln(sigma / alpha); ``warmup``: the share of the run in which the
    tangent's unstable part grows to its full size.
    """

    distill: bool = True
    mean: float = -1.0
    std: float = 1.4
    warmup: float = 0.1

    compares = False

    def __post_init__(self) -> None:
        require(isinstance(self.distill, bool), "objective option distill is True or False.")
        require_number("objective option std", self.std, 1e-3, 20.0)
        require_number("objective option warmup", self.warmup, 0.0, 1.0)

    def check(self, teacher: Model, evaluations: int) -> None:
        level = teacher.schedule.at(0.5 * (teacher.schedule.low + teacher.schedule.noisy))
        require(
            abs(level.spread - 1) < 1e-3,
            "objective 'continuous-consistency' takes a variance-preserving noise schedule, and "
            "that of "
            f"{teacher.name!r} is {teacher.schedule.part_name!r}; use objective 'consistency'.",
        )

    def uses_teacher(self) -> bool:
        return self.distill

    def student(self, teacher: Model) -> Model:
        return with_prediction(teacher, "v")

    def objective(self, setup: DistillationSetup, stage: Stage) -> Tangent:
        teacher = setup.teacher if self.distill else None
        return Tangent(student=setup.student, teacher=teacher, settings=self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tangent:
    """Algorithm 1: the student's answer is moved along the tangent it has now."""

    student: Model
    teacher: Teacher | None
    settings: ContinuousConsistency

    def loss(self, net: torch.nn.Module, batch: Batch) -> torch.Tensor:
        x0, schedule, settings = batch.rows, self.student.schedule, self.settings
        n = len(x0)
        ratio = draw_ratios(schedule, settings.mean, settings.std, n, batch.generator)
        angle, at = np.arctan(ratio), Levels.at_ratios(schedule, ratio)
        noise = batch.randn_like(x0)
        x = at.noised(x0, noise)
        cos, sin, t = columns(x0, np.cos(angle), np.sin(angle), at.t)
        slope = cos * noise - sin * x0
        if self.teacher is not None:
            slope = (cos * x - self.teacher(x, at, batch.labels)) / sin.clamp(min=1e-4)
        (pace,) = columns(x0, slope_of_time(schedule, angle))
        with torch.no_grad(), same_masks(x):
            raw = net.module if isinstance(net, DistributedDataParallel) else net
            times, moves = t.flatten(), (cos * sin * pace).flatten()
            answer, change = _jvp(raw, x, times, batch.labels, cos * sin * slope, moves)
        grown = min(1.0, batch.progress / settings.warmup) if settings.warmup else 1.0
        tangent = -(cos**2) * (answer - slope) - grown * (cos * sin * x + change)
        norm = column(tangent.flatten(1).norm(dim=1), tangent) / x0[0].numel() ** 0.5
        target = answer + tangent / (norm + FLOOR)
        now = net(x, t.flatten(), batch.labels).float()
        return torch.nn.functional.mse_loss(now, target)


def slope_of_time(schedule: NoiseSchedule, angle: Array) -> Array:
    """How fast the network's time moves with the angle arctan(sigma / alpha)."""
    ends = [
        schedule.at(schedule.low).ratio,
        min(schedule.at(schedule.noisy).ratio, 1e4),
    ]
    low, high = np.arctan(ends)
    sides = [np.clip(angle + step, low, high) for step in (-STEP, STEP)]
    before, after = (Levels.at_ratios(schedule, np.tan(side)).t for side in sides)
    return (after - before) / np.maximum(sides[1] - sides[0], 1e-9)


def _jvp(
    net: torch.nn.Module,
    x: torch.Tensor,
    t: torch.Tensor,
    condition: torch.Tensor | None,
    dx: torch.Tensor,
    dt: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The network's answer, and how it changes when x and t move by dx and dt."""
    norms = [part for part in net.modules() if isinstance(part, torch.nn.GroupNorm)]
    # Forward derivatives of group normalisation take dense tensors in the usual order alone.
    hooks = [part.register_forward_pre_hook(lambda _, x: (x[0].contiguous(),)) for part in norms]
    try:
        with sdpa_kernel(SDPBackend.MATH), torch.autocast(x.device.type, enabled=False):
            answer, change = torch.func.jvp(lambda x, t: net(x, t, condition), (x, t), (dx, dt))[:2]
    except (NotImplementedError, RuntimeError) as error:
        why = " ".join(str(error).split())[:160]
        raise UserError(
            "objective 'continuous-consistency' needs Jacobian-vector products, which this network "
            f"does not give ({why}); use objective 'consistency'."
        ) from error
    finally:
        for hook in hooks:
            hook.remove()
    return answer.float(), change.float()
