"""Students of video: the helpers and losses take latents (n, c, f, h, w)."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hasten.core.model import Model
from hasten.core.noise_schedule import ddpm_schedule
from hasten.core.prediction import prediction
from hasten.core.random_streams import generator
from hasten.learning.students.base import DistillationSetup, objectives
from hasten.learning.students.batched_denoiser import Levels, Teacher, denoised
from hasten.learning.students.compare import pixels
from hasten.learning.students.consistency_base import ConsistencyLoss
from hasten.training.objective import Batch

SHAPE = (1, 3, 4, 4)


class Video(torch.nn.Module):
    """A smallest network over (n, c, f, h, w); over (n, d) it computes the same."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(0.7))
        self.of_time = torch.nn.Parameter(torch.tensor(0.1))

    def forward(self, x, t, condition=None):
        return (self.weight + self.of_time * t.view(-1, *[1] * (x.ndim - 1)) / 1000) * x


def video(shape: tuple[int, ...] = SHAPE) -> Model:
    kind = {"schedule": ddpm_schedule(), "prediction": prediction("v")}
    return Model(net=Video(), shape=shape, name="video", **kind)


def test_levels_and_the_denoiser_take_video():
    model, n = video(), 5
    at = Levels.at_ratios(model.schedule, np.array([0.1, 0.5, 1.0, 3.0, 20.0]))
    x0, noise = (torch.randn(n, *SHAPE, generator=generator(i)) for i in (1, 2))
    x = at.noised(x0, noise)
    assert x.shape == x0.shape
    want = at.noised(x0.flatten(1), noise.flatten(1))
    assert torch.equal(x.flatten(1), want)
    with torch.no_grad():
        x0_video = denoised(model, model.net, x, at, None)
        x0_flat = denoised(model, model.net, want, at, None)
    assert torch.allclose(x0_video.flatten(1), x0_flat, atol=1e-6)
    end = Levels.same(model.schedule.at(100.0), n)
    moved = at.moved(x, x0_video, end)
    assert torch.allclose(moved.flatten(1), at.moved(want, x0_flat, end), atol=1e-5)


def test_the_consistency_loss_takes_video():
    model, n = video(), 4
    far = Levels.at_ratios(model.schedule, np.array([0.5, 1.0, 3.0, 9.0]))
    near = Levels.at_ratios(model.schedule, np.array([0.2, 0.5, 1.0, 3.0]))
    rows = torch.randn(n, *SHAPE, generator=generator(1))
    noise = torch.randn(n, *SHAPE, generator=generator(2))
    values = []
    for shape in (SHAPE, (48,)):
        x0, z = rows.reshape(n, *shape), noise.reshape(n, *shape)
        points = far.noised(x0, z), near.noised(x0, z)
        loss = ConsistencyLoss(student=model, compare=pixels)
        batch = Batch(rows=x0, labels=None, generator=generator(3))
        value = loss.loss_between(model.net, model.net, batch, far, near, points, np.ones(n))
        values.append(float(value.detach()))
    assert values[0] == pytest.approx(values[1], rel=1e-5)


@pytest.mark.parametrize(
    "name",
    [
        "consistency",
        "consistency-distillation",
        "continuous-consistency",
        "direct",
        "dmd",
        "knowledge-distillation",
        "progressive(first=8)",
        "reflow",
        "shortcut(finest=2)",
        "trajectory",
    ],
)
def test_every_kind_of_objective_trains_video(name):
    part, teacher = objectives.parse(name), video()
    kind = part.student(teacher)
    student = Model(**{**vars(kind), "net": Video()})
    stage = part.stages(1)[0]
    setup = DistillationSetup(teacher=Teacher(model=teacher), student=student, before=student)
    shape = (4, *SHAPE)
    if part.needs == "trajectories":
        kinds = part.trajectory_levels(teacher.schedule, stage.evaluations)
        shape = (4, 1 + sum(len(levels) - 1 for levels in kinds), *SHAPE)
    rows = torch.randn(shape, generator=generator(5))
    batch = Batch(rows=rows, labels=None, generator=generator(6), progress=0.5)
    module = part.module(setup)
    loss = part.objective(setup, stage).loss(module, batch)
    loss.backward()
    assert torch.isfinite(loss)
    assert student.net.weight.grad is not None
