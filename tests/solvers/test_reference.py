"""Solvers without a Program: other packages' integrators, Langevin steps, adaptive steps, and what
they become when they are frozen."""

from __future__ import annotations

import dataclasses
import math
import sys
import threading
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch

import hasten
import hasten.grids
import hasten.solvers
from conftest import session_of
from hasten import Plan, build
from hasten.adapters.schedules import betas
from hasten.cli import _status
from hasten.core.errors import NonFiniteError, TracingError, UserError
from hasten.core.grid import grids
from hasten.core.level import Level
from hasten.core.model import Model
from hasten.core.noise_schedule import Discrete, NoiseSchedule, schedule
from hasten.core.session import Session, drive
from hasten.core.solver import Clipped, solvers
from hasten.learning.programs.freeze import middle_steps
from hasten.measuring.nfe import COUNTED
from hasten.solvers.reference import _motion

PATHS = {name: schedule(name) for name in ("vp-linear", "edm", "flow", "ddpm")}
ADAPTIVE = ("adaptive-ode", "adaptive-ode(order=2)", "adaptive-sde")
DIRECT = [
    *ADAPTIVE,
    "langevin",
    "ode(rtol=1e-3, atol=1e-3)",
    "ode(method='rk4')",
    "sde(method='srk')",
]


class Smooth(torch.nn.Module):
    """A network whose x0 is smooth, bounded and cheap, so that walks of hundreds of calls are."""

    def __init__(self, labels: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = torch.nn.Parameter(torch.randn(1, 1, 3, 3, generator=generator))
        self.shift = torch.nn.Parameter(torch.randn(labels + 1, generator=generator))

    def forward(self, x: torch.Tensor, t: torch.Tensor, condition=None):
        labels = None if condition is None else condition.labels
        shift = 0.0 if labels is None else self.shift[labels].view(-1, 1, 1, 1)
        slope = 1.5 / (1 + t.view(-1, 1, 1, 1) / 300)
        return torch.tanh(slope * torch.nn.functional.conv2d(x, self.weight, padding=1) + shift)


@pytest.fixture
def smooth() -> Callable[..., Model]:
    """Makes a Model around a Smooth network that answers x0."""

    def make(where: str | NoiseSchedule = "ddpm", labels: int | None = None) -> Model:
        return Model(
            net=Smooth(labels or 1).requires_grad_(False),
            schedule=schedule(where),
            prediction=hasten.prediction("x0"),
            shape=(1, 8, 8),
            labels=labels,
            null_label=labels,
            name="smooth",
        )

    return make


ZERO_TERMINAL = Discrete.from_betas(betas("linear", 1000, 1e-4, 0.02), zero_terminal_snr=True)


def backend(denoiser, shape, seed: int = 0) -> Session:
    """Answers in float64, each picture's noise from its own generator."""
    streams = [torch.Generator().manual_seed(seed + 100 * row) for row in range(shape[0])]

    def noise(rows=None):
        some = streams if rows is None else [streams[row] for row in rows]
        drawn = [torch.randn(shape[1:], generator=one, dtype=torch.float64) for one in some]
        return torch.stack(drawn)

    return session_of(denoiser, noise)


def beginning(level: Level, n: int = 3, size: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    wide = torch.randn(n, 1, size, size, generator=generator, dtype=torch.float64)
    return level.spread * wide


def solution(gaussian, x: torch.Tensor, here: Level, there: Level) -> torch.Tensor:
    """The ODE keeps the number of standard deviations from the mean."""
    one = math.hypot(here.alpha * gaussian.std, here.sigma)
    other = math.hypot(there.alpha * gaussian.std, there.sigma)
    return there.alpha * gaussian.mean + other * (x - here.alpha * gaussian.mean) / one


def inner_levels(where: NoiseSchedule, steps: int) -> list[Level]:
    """Evenly in log-SNR, all with signal and noise."""
    return [where.at(where.position(float(v))) for v in np.linspace(-4.0, 4.0, steps + 1)]


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("method", ["dopri5", "dopri8"])
def test_an_outside_integrator_finds_the_exact_solution(method, name, gaussian):
    """To a few dozen times its tolerance: the local errors of that many steps add up."""
    levels, tolerance = inner_levels(PATHS[name], 3), 1e-6
    solver = solvers.make("ode", {"method": method, "rtol": tolerance, "atol": tolerance})
    x = beginning(levels[0])
    end = drive(solver.on(PATHS[name]).walk(x, levels), backend(gaussian, x.shape))
    away = (end - solution(gaussian, x, levels[0], levels[-1])).abs().max()
    assert away <= 50 * tolerance


@pytest.mark.parametrize(
    ("method", "order"), [("euler", 1), ("midpoint", 2), ("heun3", 3), ("rk4", 4)]
)
def test_fixed_methods_have_their_order_on_the_grid(method, order, gaussian):
    where, counts, errors = PATHS["flow"], [16, 32, 64], []
    for steps in counts:
        levels = inner_levels(where, steps)
        x = beginning(levels[0])
        walk = solvers.make("ode", {"method": method}).on(where).walk(x, levels)
        end = drive(walk, backend(gaussian, x.shape))
        errors.append(float((end - solution(gaussian, x, levels[0], levels[-1])).abs().max()))
    slope = -np.polyfit(np.log(counts), np.log(errors), 1)[0]
    assert slope >= order - 0.3  # what constants of the next order leave in the fit


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("order", [2, 3])
def test_the_error_of_adaptive_steps_follows_the_tolerance(order, name, gaussian):
    """The state is within ten tolerances of the exact solution, as the local errors of some dozens
    of steps add up and shrink again, and a hundredth of the tolerance gains a factor of 10."""
    levels, errors = inner_levels(PATHS[name], 8), []
    for tolerance in (1e-2, 1e-3, 1e-4):
        options = {"order": order, "rtol": tolerance, "atol": tolerance}
        x = beginning(levels[0], size=2)
        walk = solvers.make("adaptive-ode", options).on(PATHS[name]).walk(x, levels)
        end = drive(walk, backend(gaussian, x.shape))
        errors.append(float((end - solution(gaussian, x, levels[0], levels[-1])).abs().max()))
        assert errors[-1] <= 10 * tolerance
    assert errors[-1] <= errors[0] / 10


@pytest.mark.parametrize("order", [2, 3])
def test_adaptive_steps_are_right_where_the_denoiser_is_not_linear(order):
    """Two equally likely Gaussians, against torchdiffeq at a tolerance of 1e-9."""

    def denoiser(x: torch.Tensor, level: Level) -> torch.Tensor:
        power = (level.alpha * 0.5) ** 2 + level.sigma**2
        share = torch.tanh(level.alpha * x / power)
        return share + level.alpha * 0.25 / power * (x - level.alpha * share)

    where = PATHS["ddpm"]
    levels = inner_levels(where, 8)
    x = beginning(levels[0], n=2)
    exact = solvers.parse("ode(rtol=1e-9, atol=1e-9)").on(where)
    truth = drive(exact.walk(x, levels), backend(denoiser, x.shape))
    for tolerance in (1e-2, 1e-4):
        options = {"order": order, "rtol": tolerance, "atol": tolerance}
        walk = solvers.make("adaptive-ode", options).on(where).walk(x, levels)
        assert (drive(walk, backend(denoiser, x.shape)) - truth).abs().max() <= 50 * tolerance


@pytest.mark.parametrize("name", ["ddpm", "edm"])
@pytest.mark.parametrize(
    "text",
    [
        "adaptive-sde(rtol=0.02, atol=0.004)",
        "langevin(snr=0.05)",
        "sde(method='euler', substeps=4)",
        "sde(method='srk')",
        "sde(method='heun')",
        "sde(method='midpoint')",
    ],
)
def test_the_reverse_sde_ends_at_the_data(text, name, gaussian):
    """Mean and standard deviation of 25600 numbers at a clean end: 0.02 is six standard errors
    of either, and the discretisation's share of the rest."""
    levels = grids.parse("log-snr").levels(PATHS[name], 160 if "langevin" in text else 40)
    x = beginning(levels[0], n=100, size=16)
    walk = solvers.parse(text).on(PATHS[name]).walk(x, levels)
    end = drive(walk, backend(gaussian, x.shape))
    assert abs(float(end.mean()) - gaussian.mean) <= 0.02
    assert abs(float(end.std()) - gaussian.std) <= 0.02


def test_the_brownian_area_of_srk_has_the_covariance_of_its_increment(gaussian):
    """Var w = h, Var of its integral = h^3 / 3, and their covariance h^2 / 2; 6 percent are five
    standard errors of 16384 draws, h being 1/4."""
    answers = backend(gaussian, (64, 1, 16, 16))
    y = torch.zeros(64, 256, dtype=torch.float64)
    motion = _motion(lambda ask: answers.noise(ask)[0], y, y.shape, area=True)
    increment, area = motion(0.5, 0.75, return_U=True)
    h = 0.25
    assert float(increment.square().mean()) == pytest.approx(h, rel=0.06)
    assert float(area.square().mean()) == pytest.approx(h**3 / 3, rel=0.06)
    assert float((increment * area).mean()) == pytest.approx(h**2 / 2, rel=0.06)


def test_langevin_steps_correct_a_coarse_predictor(gaussian):
    """Five ancestral steps leave too small a spread at the last noisy level; corrections there and
    before bring it closer."""
    levels = inner_levels(PATHS["ddpm"], 5)
    there = levels[-1]
    wanted = math.hypot(there.alpha * gaussian.std, there.sigma)
    away = []
    for corrections in (0, 5):
        x = beginning(levels[0], n=200, size=8)
        walk = solvers.make("langevin", {"corrections": corrections}).walk(x, levels)
        away.append(abs(float(drive(walk, backend(gaussian, x.shape)).std()) - wanted))
    assert away[1] < 0.5 * away[0]


@pytest.mark.parametrize("text", ADAPTIVE)
def test_a_step_tried_again_keeps_its_noise_and_asks_less(text, gaussian):
    """A first step as long as the whole path is too long: it is tried again, and the noises drawn
    are as many as the steps that were accepted."""
    where = PATHS["ddpm"]
    ends = [where.at(where.position(v)) for v in (-4.0, 4.0)]
    solver = dataclasses.replace(solvers.parse(text), rtol=1e-3, atol=1e-3)
    answers, drawn, calls = backend(gaussian, (1, 1, 4, 4)), [], []
    fresh = answers.fresh
    answers.fresh = lambda rows=None: drawn.append(rows) or fresh(rows)
    x = beginning(ends[0], n=1, size=4)
    walk = solver.crossed(x, ends, lambda value: where.at(where.position(value)))
    _, trail = drive(walk, answers, lambda call, x0: calls.append(len(x0)))
    steps, per_step = len(trail[0]) - 1, getattr(solver, "order", 2)
    assert steps >= 3
    assert len(drawn) == (steps if solver.stochastic else 0)
    retries = (len(calls) - per_step * steps) / (per_step - 1)
    assert retries >= 1
    assert retries == int(retries)
    assert all(one < other for one, other in pairwise(trail[0]))


@pytest.mark.parametrize("text", DIRECT)
def test_a_picture_does_not_depend_on_its_batch_mates(text, smooth):
    """Up to what other batch sizes do to float32 sums, seen through hundreds of calls."""
    sampler = build(smooth(labels=3), Plan(solver=text, steps=5))
    whole = sampler.sample(3, seed=3, condition=[0, 1, 2])
    alone = sampler.sample(3, seed=3, condition=[0, 1, 2], batch=1)
    assert (alone - whole).abs().max() < 1e-4
    assert (sampler.sample(1, seed=3, first=2, condition=2) - whole[2:]).abs().max() < 1e-4
    assert (alone[0] - alone[1]).abs().max() > 1e-2


def test_pictures_of_one_batch_have_their_own_steps_and_levels(smooth):
    model = smooth(labels=3)
    sampler = build(model, Plan(solver="adaptive-ode(rtol=0.01)", steps=6, guidance=2.0))
    sizes: list[int] = []
    sampler.sample(4, condition=[0, 1, 2, 0], watch=lambda call, x0: sizes.append(len(x0)))
    assert len(set(sizes)) > 1  # some were done, or tried again, before others


@pytest.mark.parametrize("text", DIRECT)
def test_one_step_is_one_evaluation(text, smooth):
    sampler = build(smooth(), Plan(solver=text, steps=1))
    calls: list[torch.Tensor] = []
    out = sampler.sample(2, raw=True, watch=lambda call, x0: calls.append(x0))
    assert len(calls) == 1
    assert torch.allclose(out, calls[0])
    assert sampler.program is None
    assert sampler.evaluations is None


@pytest.mark.parametrize("text", DIRECT)
def test_a_start_without_signal_is_left_by_the_first_order_step(text, smooth):
    model = smooth(ZERO_TERMINAL)
    for steps in (1, 2, 5):
        out = build(model, Plan(solver=text, steps=steps)).sample(2, raw=True)
        assert torch.isfinite(out).all()


def test_clipping_wraps_a_solver_without_a_program(gaussian):
    """The last step ends at the clipped x0; float32 adds nothing to a bound it can hold."""
    levels = grids.parse("log-snr").levels(PATHS["ddpm"], 6)
    for text in DIRECT:
        x = beginning(levels[0])
        solver = Clipped(solver=solvers.parse(text), bound=0.25)
        assert not solver.traceable
        walk = solver.on(PATHS["ddpm"]).walk(x, levels)
        assert drive(walk, backend(gaussian, x.shape)).abs().max() <= 0.25 + 1e-12


@pytest.mark.parametrize("text", ["adaptive-ode", "adaptive-ode(order=2)"])
def test_one_frozen_picture_is_the_picture(text, smooth):
    """The same steps by the same formulas, summed in another order in float32."""
    model = smooth()
    plan = Plan(solver=text, steps=6)
    frozen = hasten.freeze(model, plan, n=1, seed=5)
    one, other = (build(model, each).sample(1, seed=5) for each in (plan, frozen))
    assert (one - other).abs().max() <= 1e-4
    assert build(model, frozen).program is not None


def test_freezing_takes_the_middle_of_the_pictures_steps():
    trails = [[0.0, 1.0, 4.0], [0.0, 2.0, 4.0], [0.0, 3.0, 4.0], [0.0, 2.0, 3.0, 4.0]]
    # At half of the steps the four are at 1, 2, 3 and 2.5.
    assert middle_steps(trails) == pytest.approx([0.0, 2.25, 4.0])


def test_a_frozen_sde_draws_noise_and_a_start_without_signal_is_kept(smooth):
    model = smooth(ZERO_TERMINAL)
    plan = Plan(solver="adaptive-sde", steps=5)
    frozen = hasten.freeze(model, plan, n=3)
    levels, before = frozen.levels(model.schedule), plan.levels(model.schedule)
    assert frozen.stochastic
    assert (levels[:2], levels[-2:]) == (before[:2], before[-2:])


def test_freeze_is_a_verb(tiny_model, tmp_path, capsys):
    from hasten.adapters.folder import save_folder

    save_folder(tiny_model(), tmp_path / "model")
    out = tmp_path / "plan.json"
    options = ["--plan", "solver=adaptive-ode,steps=5,clip=1", "--n", "2", "--out", str(out)]
    assert _status(["learn", "freeze", str(tmp_path / "model"), *options]) == 0
    assert "evaluations" in capsys.readouterr().out
    assert Plan.read(out).solver.startswith("dpmpp(")
    options[1] = "solver=ddim"
    assert _status(["learn", "freeze", str(tmp_path / "model"), *options]) == 2
    assert "adaptive-sde" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("adaptive-ode(order=4)", "order"),
        ("adaptive-ode(rtol=0)", "rtol"),
        ("adaptive-ode(atol=-1.0)", "atol"),
        ("adaptive-sde(rtol=1e999)", "rtol"),
        ("adaptive-sde(exponent=2)", "exponent"),
        ("langevin(snr=0)", "snr"),
        ("langevin(snr=1.5)", "snr"),
        ("langevin(corrections=-1)", "corrections"),
        ("ode(method='dopri')", "Did you mean 'dopri"),
        ("ode(rtol=0.0)", "rtol"),
        ("ode(method='rk4', rtol=1e-3)", "drop rtol"),
        ("sde(method='milstein')", "method"),
        ("sde(substeps=0)", "substeps"),
    ],
)
def test_a_wrong_option_is_refused_by_name(text, said):
    with pytest.raises(UserError, match="solver option") as caught:
        solvers.parse(text)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_tolerance_that_is_no_number_is_refused():
    for name in ("adaptive-ode", "adaptive-sde", "ode"):
        with pytest.raises(UserError, match="rtol"):
            solvers.make(name, {"rtol": float("nan")})


@pytest.mark.parametrize(("name", "module"), [("ode", "torchdiffeq"), ("sde", "torchsde")])
def test_a_missing_integrator_is_named_with_the_line_that_installs_it(name, module, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=r"hasten\[reference\]"):
        solvers.parse(name)


def test_a_solver_without_a_program_says_so(smooth):
    for text in DIRECT:
        with pytest.raises(TracingError, match="no Program"):
            hasten.trace(Plan(solver=text), "ddpm")
    for executor in ("picard", "early-exit"):
        if executor in hasten.core.executor.executors:
            with pytest.raises(UserError, match="executor"):
                build(smooth(), Plan(solver="adaptive-ode", executor=executor))


@pytest.mark.parametrize("text", DIRECT)
def test_a_network_that_is_not_finite_ends_every_walk(text, smooth):
    model = smooth()
    model.net.weight.fill_(math.nan)
    with pytest.raises(NonFiniteError, match="not finite"):
        build(model, Plan(solver=text, steps=4)).sample(2)


def test_a_report_counts_the_evaluations_of_adaptive_steps(smooth):
    """The mean over pictures made one at a time."""
    model, plan = smooth(), Plan(solver="adaptive-ode", steps=5)
    report = hasten.measure(model, plan, n=0, pictures=0, batch=2, seconds=0.0)
    calls: list[int] = []
    for first in range(COUNTED):
        build(model, plan).sample(1, first=first, watch=lambda *_: calls.append(1))
    assert report.evaluations == len(calls) / COUNTED
    assert report.rounds == report.evaluations


def test_an_abandoned_walk_ends_its_thread():
    def alive() -> int:
        return sum(thread.name == "hasten-walk" for thread in threading.enumerate())

    levels = inner_levels(PATHS["ddpm"], 3)
    before = alive()
    walk = solvers.parse("ode(method='rk4')").walk(beginning(levels[0]), levels)
    next(walk)
    assert alive() == before + 1
    walk.close()
    assert alive() == before
