"""Latents of any rank: vectors, pictures in frames and more go through all that drives a run."""

from __future__ import annotations

import pytest
import torch

import hasten
from hasten.core.condition import Condition, PerSample
from hasten.core.model import Model
from hasten.core.plan import Plan
from hasten.editing.invert import invert

EXECUTORS = [
    "sequential",
    "picard(tolerance=1e-6)",
    "anderson(tolerance=1e-6)",
    "parareal(blocks=2, tolerance=1e-6)",
    "early-exit(tolerance=1e-9)",
    "deadline(ms=1e6)",
]
SHAPES = [(6,), (1, 3, 4, 4), (2, 2, 2, 2, 2)]


class Small(torch.nn.Module):
    """A smooth bounded x0 for latents of any rank, moved by labels."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(1.2))

    def forward(self, x, t, condition=None):
        labels = None if condition is None else condition.labels
        shift = 0.0 if labels is None else labels.view(-1, *[1] * (x.ndim - 1)) * 0.3
        return torch.tanh(self.weight * x + 0.1 * x.roll(1, -1) + shift)


def small_model(shape: tuple[int, ...], labels: int | None = None) -> Model:
    return Model(
        net=Small().requires_grad_(False),
        schedule=hasten.schedule("ddpm"),
        prediction=hasten.prediction("x0"),
        shape=shape,
        labels=labels,
        null_label=labels,
        name="small",
    )


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("executor", EXECUTORS)
def test_every_executor_gives_the_sequential_latents(executor, shape):
    model = small_model(shape, labels=3)
    plan = Plan(solver="ddim(eta=0.5)", grid="uniform", steps=8, guidance=1.5)
    given = {"n": 3, "condition": [0, 1, 2], "raw": True}
    wanted = hasten.build(model, plan).sample(**given)
    assert wanted.shape == (3, *shape)
    got = hasten.build(model, plan.model_copy(update={"executor": executor})).sample(**given)
    assert (got - wanted).abs().max() < 1e-4  # tolerances of 1e-6, amplified on the way


@pytest.mark.parametrize("executor", EXECUTORS)
def test_a_sample_of_frames_does_not_depend_on_its_batch(executor):
    model = small_model((1, 3, 4, 4), labels=3)
    plan = Plan(solver="ddpm", steps=6, guidance=1.5, executor=executor, clip=1.0)
    sampler = hasten.build(model, plan)
    together = sampler.sample(4, condition=[0, 1, 2, 0], raw=True)
    alone = sampler.sample(1, first=2, condition=2, raw=True)
    assert (together[2] - alone[0]).abs().max() < 1e-3


@pytest.mark.parametrize("solver", ["adaptive-ode", "adaptive-sde", "langevin"])
def test_solvers_without_a_program_walk_frames(solver):
    made = hasten.build(small_model((1, 3, 4, 4)), Plan(solver=solver, steps=4))
    assert made.sample(2, raw=True).isfinite().all()


def test_frames_are_inverted():
    model, plan = small_model((1, 3, 4, 4)), Plan(solver="ddim", steps=10)
    made = hasten.build(model, plan).sample(2, raw=True)
    noise = invert(model, plan, made, raw=True).noise
    again = hasten.build(model, plan).sample(noise=noise, raw=True)
    assert (again - made).flatten(1).square().mean(1).sqrt().max() <= 1.1e-3


def test_a_condition_with_a_row_a_frame_is_split_over_batches():
    class Framed(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(()))

        def forward(self, x, t, condition=None):
            frames = condition.values(x, t)["frames"].view(len(x), 1, 3, 1, 1)
            return torch.tanh(self.weight * x + frames)

    model = Model(
        net=Framed().requires_grad_(False),
        schedule=hasten.schedule("ddpm"),
        prediction=hasten.prediction("x0"),
        shape=(1, 3, 4, 4),
    )
    frames = PerSample(torch.linspace(-1, 1, 12)[:, None], each=3)
    condition = Condition(4, {"cond": {"frames": frames}})
    sampler = hasten.build(model, Plan(solver="ddim", steps=4))
    whole = sampler.sample(4, condition=condition, raw=True)
    parts = sampler.sample(4, condition=condition, raw=True, batch=3)
    assert (whole - parts).abs().max() < 1e-6
    alone = sampler.sample(1, first=3, condition=condition.rows([3]), raw=True)
    assert (whole[3:] - alone).abs().max() < 1e-6
