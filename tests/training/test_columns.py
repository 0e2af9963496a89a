"""Training takes latents of any rank: nothing unpacks (c, h, w)."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import hasten
from hasten.core.random_streams import generator
from hasten.training.columns import column, columns
from hasten.training.labels import drop_labels
from hasten.training.learned_schedule import LearnedSchedulePrediction, MonotoneShape
from hasten.training.noise_prediction import NoisePrediction
from hasten.training.objective import Batch

SHAPES = [(6,), (1, 4, 4), (2, 3, 4, 4)]  # a vector, a picture, a video of three frames


def batch_of(shape: tuple[int, ...], n: int = 8) -> Batch:
    rows = torch.randn(n, *shape, generator=generator(3))
    return Batch(rows=rows, labels=None, generator=generator(4))


class Scaled(torch.nn.Module):
    """A network of one weight that takes latents of any rank."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(0.5))

    def forward(self, x, t, condition=None):
        return self.weight * x


@pytest.mark.parametrize("shape", SHAPES)
def test_columns_broadcast_over_every_rank(shape):
    x = torch.ones(5, *shape)
    values = np.arange(5.0)
    first, second = columns(x, values, 2.0)
    assert first.shape == (5, *[1] * len(shape))
    assert first.dtype == torch.float32
    assert ((first * x).flatten(1).mean(1) == torch.arange(5.0)).all()
    assert (second * x == 2).all()
    assert torch.equal(column(torch.arange(5.0), x), first)


@pytest.mark.parametrize("shape", SHAPES)
def test_noise_prediction_does_not_depend_on_the_shape_of_a_sample(shape):
    """The same numbers in another shape have the same loss."""
    schedule, prediction = hasten.schedule("ddpm"), hasten.prediction("v")
    loss = NoisePrediction(schedule=schedule, prediction=prediction)
    batch = batch_of(shape)
    value = loss.loss(Scaled(), batch)
    flat = Batch(rows=batch.rows.flatten(1), labels=None, generator=generator(4))
    assert torch.allclose(value, loss.loss(Scaled(), flat), rtol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_learned_schedule_does_not_depend_on_the_shape_of_a_sample(shape):
    shape_of_schedule = MonotoneShape((-13.3, 5.0))
    loss = LearnedSchedulePrediction(prediction=hasten.prediction("v"), shape=shape_of_schedule)
    grads = []
    for rows in (batch_of(shape).rows, batch_of(shape).rows.flatten(1)):
        shape_of_schedule.zero_grad()
        loss.loss(Scaled(), Batch(rows=rows, labels=None, generator=generator(4))).backward()
        grads.append(shape_of_schedule.slope.grad.clone())
    assert torch.allclose(*grads, rtol=1e-4, atol=1e-7)


def test_labels_are_dropped_at_the_share_that_is_given():
    labels = torch.arange(4000) % 10
    dropped = drop_labels(labels, 10, 0.25, generator(1))
    assert dropped is not None
    share = float((dropped == 10).double().mean())
    assert abs(share - 0.25) < 4 * (0.25 * 0.75 / 4000) ** 0.5  # four standard deviations
    assert torch.equal(dropped[dropped != 10], labels[dropped != 10])
    assert drop_labels(labels, None, 0.25, generator(1)) is labels
    assert drop_labels(None, 10, 0.25, generator(1)) is None
