"""Inversion: the noise found decodes to the picture it was found for, by the same plan."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

import hasten
from hasten import Plan, build
from hasten.core.errors import NonFiniteError, UserError
from hasten.core.model import Model
from hasten.core.noise_schedule import schedule
from hasten.editing.invert import invert
from hasten.editing.mixing import Mixer

MEAN, STD = 0.3, 0.5


class Exact(torch.nn.Module):
    """The exact x0 of Gaussian data on the discrete path."""

    def __init__(self) -> None:
        super().__init__()
        self.where = schedule("ddpm")
        self.weight = torch.nn.Parameter(torch.ones(()), requires_grad=False)

    def forward(self, x: torch.Tensor, t: torch.Tensor, condition=None):
        level = self.where.at(float(t[0]))
        power = (level.alpha * STD) ** 2 + level.sigma**2
        return MEAN + level.alpha * STD**2 / power * (x - level.alpha * MEAN) * self.weight


@pytest.fixture
def gaussian_model() -> Model:
    return Model(
        net=Exact(), schedule=schedule("ddpm"), prediction=hasten.prediction("x0"), shape=(1, 4, 4)
    )


DETERMINISTIC = ["ddim", "euler", "heun", "dpmpp(order=2)", "unipc", "deis(order=2)", "ipndm"]


@pytest.mark.parametrize("text", DETERMINISTIC)
def test_gaussian_pictures_decode_back(text, gaussian_model):
    plan = Plan(solver=text, steps=20)
    sampler = build(gaussian_model, plan)
    made = sampler.sample(4, seed=2, raw=True)
    found = invert(gaussian_model, plan, made, raw=True, tolerance=1e-4)
    again = sampler.sample(noise=found.noise, raw=True)
    apart = (again - made).square().mean(dim=(1, 2, 3)).sqrt()
    assert apart.max() <= 1.01e-4  # the tolerance, and float32
    assert (apart - found.residual).abs().max() <= 1e-6


def test_the_noise_of_gaussian_pictures_is_the_noise_they_were_made_of(gaussian_model):
    """Here the map from noise to picture is one number; the tolerance divided by it, which is at
    least the data's width."""
    plan = Plan(solver="ddim", steps=30)
    noise = torch.randn(3, 1, 4, 4)
    made = build(gaussian_model, plan).sample(noise=noise, raw=True)
    found = invert(gaussian_model, plan, made, raw=True, tolerance=1e-4)
    assert (found.noise - noise).square().mean().sqrt() <= 1e-4 / STD * 2


@pytest.mark.parametrize("text", ["ddim", pytest.param("dpmpp(order=2)", marks=pytest.mark.slow)])
def test_pictures_of_a_real_network_decode_back(text, tiny_model):
    """An untrained network of velocities on a straight path: x0 stays of the size of pictures."""
    model = tiny_model("flow", "flow", labels=3)
    plan = Plan(solver=text, steps=20)
    sampler = build(model, plan)
    condition = [0, 1, 2]
    made = sampler.sample(3, seed=1, condition=condition, raw=True)
    found = invert(model, plan, made, condition=condition, raw=True)
    again = sampler.sample(noise=found.noise, condition=condition, raw=True)
    assert (again - made).square().mean(dim=(1, 2, 3)).sqrt().max() <= 1.1e-3


def test_pictures_are_inverted_as_they_are_shown(gaussian_model):
    """In [0, 1], where the plan's own pictures were cut off too."""
    plan = Plan(solver="ddim", steps=20)
    sampler = build(gaussian_model, plan)
    made = sampler.sample(4, seed=2)
    again = sampler.sample(noise=invert(gaussian_model, plan, made).noise)
    assert (again - made).square().mean(dim=(1, 2, 3)).sqrt().max() <= 1.01e-3


def test_a_picture_does_not_depend_on_its_batch_mates(gaussian_model):
    plan = Plan(solver="dpmpp(order=2)", steps=12)
    made = build(gaussian_model, plan).sample(5, seed=2, raw=True)
    whole = invert(gaussian_model, plan, made, raw=True)
    for batch in (1, 2):
        parts = invert(gaussian_model, plan, made, raw=True, batch=batch)
        assert (parts.noise - whole.noise).abs().max() <= 1e-4


def test_mixing_solves_a_linear_fixed_point_in_as_many_steps_as_it_has_numbers():
    """Anderson mixing is GMRES there (Walker & Ni 2011, theorem 2.2); plain iteration diverges."""
    matrix = torch.diag(torch.tensor([-3.0, 0.5, 2.0], dtype=torch.float64))
    right = torch.tensor([[1.0, 2.0, 3.0]], dtype=torch.float64)
    exact = torch.linalg.solve(torch.eye(3, dtype=torch.float64) - matrix, right.mT).mT
    mixer, x = Mixer(depth=5), torch.zeros(1, 3, dtype=torch.float64)
    for _ in range(5):
        x = mixer.next(x, x @ matrix.mT + right - x)
    assert (x - exact).abs().max() < 1e-5  # the ridge of 1e-8 on squares


@pytest.mark.parametrize(
    ("plan", "said"),
    [
        (Plan(solver="ddpm"), "draws noise"),
        (Plan(solver="adaptive-ode"), "no Program"),
    ],
)
def test_a_plan_without_one_noise_a_picture_is_refused(plan, said, gaussian_model):
    with pytest.raises(UserError, match=said):
        invert(gaussian_model, plan, torch.rand(1, 1, 4, 4))


def test_wrong_pictures_and_tolerances_are_refused(gaussian_model):
    plan, fine = Plan(solver="ddim", steps=4), torch.rand(2, 1, 4, 4)
    for wrong, said in [
        (fine[:, :, :3], "pictures are"),
        (fine[0], "pictures are"),
        (fine.to(torch.uint8), "pictures are"),
        (fine[:0], "pictures are"),
        (fine * 2, "from 0 to 1"),
        (fine * math.nan, "not finite"),
    ]:
        with pytest.raises(UserError, match=said):
            invert(gaussian_model, plan, wrong)
    for name in ("tolerance", "sweeps", "batch"):
        with pytest.raises(UserError, match=name):
            invert(gaussian_model, plan, fine, **{name: 0})
    with pytest.raises(UserError, match="tolerance"):
        invert(gaussian_model, plan, fine, tolerance=math.nan)
    with pytest.raises(UserError, match="no labels"):
        invert(gaussian_model, plan, fine, condition=1)


def test_a_picture_that_is_not_reached_is_named_with_how_near_it_came(tiny_model):
    """Two steps of an untrained network, held in [-0.1, 0.1], cannot make a picture of 0 and 1."""
    plan = Plan(solver="ddim", steps=2, clip=0.1)
    with pytest.raises(UserError, match=r"1 of 1 pictures were not inverted .* came to 0\.\d+"):
        invert(tiny_model(), plan, torch.rand(1, 1, 8, 8).round(), sweeps=2)


def test_a_network_that_is_not_finite_is_reported(gaussian_model):
    broken = dataclasses.replace(gaussian_model, net=Exact())
    broken.net.weight.fill_(math.nan)
    with pytest.raises(NonFiniteError, match="not finite"):
        invert(broken, Plan(solver="ddim", steps=3), torch.rand(1, 1, 4, 4))


def test_a_wide_program_is_refused(tiny_model, tmp_path):
    from hasten.learning.programs.fit import FitOptions
    from hasten.learning.programs.program import learn_program
    from hasten.learning.programs.reference_pairs import ReferenceOptions

    model, file = tiny_model(), tmp_path / "wide.json"
    few = ReferenceOptions(pairs=8, held_out=8, teacher_steps=10)
    learn_program(model, 2, file, width=2, references=few, options=FitOptions(batch=4, steps=1))
    with pytest.raises(UserError, match="wide program"):
        hasten.invert(model, Plan(program=str(file)), torch.rand(1, 1, 8, 8))
