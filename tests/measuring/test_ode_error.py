"""The reference solution and ODE error, on an exact network; and the report of a plan."""

from __future__ import annotations

import json
import math

import pytest
import torch

import hasten
from hasten.core.model import Model
from hasten.measuring.compare import compared
from hasten.measuring.measure import measure
from hasten.measuring.ode_error import reference


class GaussianNet(torch.nn.Module):
    """Exact epsilon network for data ~ Normal(0.3, 0.5^2) on DDPM's schedule."""

    def __init__(self) -> None:
        super().__init__()
        self.schedule = hasten.schedule("ddpm")
        self.unused = torch.nn.Parameter(torch.zeros(1))

    def forward(self, x, t, condition=None):
        level = self.schedule.at(float(t[0]))
        power = (level.alpha * 0.5) ** 2 + level.sigma**2
        x0 = 0.3 + level.alpha * 0.25 / power * (x - level.alpha * 0.3)
        return (x - level.alpha * x0) / level.sigma


@pytest.fixture(scope="module")
def exact() -> Model:
    return Model(
        net=GaussianNet(),
        schedule=hasten.schedule("ddpm"),
        prediction=hasten.prediction("epsilon"),
        shape=(1, 8, 8),
        name="gaussian",
    )


def test_the_reference_is_the_exact_solution(exact):
    solution = reference(exact, 4)
    level = exact.schedule.at(999)
    spread = math.hypot(level.alpha * 0.5, level.sigma)
    x0 = 0.3 + 0.5 * (solution.noise * level.spread - level.alpha * 0.3) / spread
    expected = (x0 * 0.5 + 0.5).clamp(0, 1)
    # The last evaluation is at sigma = 0.01 of 0.5: the step from there to clean is first order.
    assert (solution.pictures - expected).abs().max() < 1e-3


def test_ode_error_falls_with_steps_and_is_none_for_plans_that_draw_noise(exact):
    solution = reference(exact, 16)
    errors = [
        solution.ode_error(hasten.Plan(solver="ddim", steps=steps)) for steps in (4, 8, 16, 32)
    ]
    values = [error.rmse for error in errors]
    assert values == sorted(values, reverse=True)
    assert errors[0].low < errors[0].rmse < errors[0].high
    assert solution.ode_error(hasten.Plan(solver="ddpm", grid="uniform", steps=4)) is None
    assert solution.first(3).noise.shape[0] == 3


def test_measure_reports_cost_and_conditions(exact):
    report = hasten.measure(exact, hasten.Plan(steps=3), n=4, batch=2, seconds=1e4)
    assert report.fd is None  # nothing says what real pictures look like
    assert report.evaluations == 3
    assert report.latency_ms.n == 20
    assert report.latency_ms.low <= report.latency_ms.median <= report.latency_ms.high
    assert report.throughput.batch == 2
    assert report.conditions["dtype"] == "float32"
    body = json.loads(report.to_json())
    assert body["key"] == hasten.Plan(steps=3).key
    assert hasten.Plan(**body["plan"]) == hasten.Plan(steps=3)


@pytest.mark.slow
def test_guidance_in_an_interval_is_measured_against_guidance_in_that_interval(tiny_model):
    model, interval = tiny_model(labels=3), (0.3, 3.0)
    plan = hasten.Plan(guidance=3.0, guidance_interval=interval, steps=3)
    settings = {"n": 1, "pictures": 0, "batch": 1, "seconds": 0.0}
    error = measure(model, plan, **settings).ode_error
    everywhere = plan.model_copy(update={"guidance_interval": None})
    both = [report.ode_error for report in compared(model, [plan, everywhere], **settings)]
    assert error == both[0] != both[1]
    assert [str(interval) in both[0].reference, str(interval) in both[1].reference] == [True, False]
