"""Orders of convergence and limits in distribution, on problems whose exact solution is known."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch

import hasten.grids
import hasten.solvers  # noqa: F401
from conftest import session_of
from hasten.core.grid import grids
from hasten.core.level import Level
from hasten.core.noise_schedule import NoiseSchedule, schedule
from hasten.core.session import Session, drive
from hasten.core.solver import solvers, trace
from hasten.executors.sequential import Sequential

PATHS = {"vp-linear": schedule("vp-linear"), "ddpm": schedule("ddpm"), "flow": schedule("flow")}
MEAN, WIDTH = 0.3, 0.5

ORDERS = {
    "ddim": 1,
    "euler": 1,
    "heun": 2,
    "dpmpp(order=1)": 1,
    "dpmpp(order=2)": 2,
    "dpmpp(order=2, singlestep=True)": 2,
    "dpmpp(order=3, singlestep=True)": 3,
    "unipc(order=1, corrector=False)": 1,
    "unipc(order=2, corrector=False)": 2,
    "unipc(order=3, corrector=False)": 3,
    "unipc(order=1)": 2,
    "unipc(order=2)": 3,
    "unipc(order=2, variant='bh1')": 3,
    "unipc(order=3)": 3,  # 4 asymptotically; the lower orders at both ends show before
    "deis(order=1)": 1,
    "deis(order=2)": 2,
    "deis(order=3)": 3,
    "ipndm(order=1)": 1,
    "ipndm(order=2)": 2,
    "ipndm(order=3)": 2,  # constant-step weights on a grid that is not even in sigma / alpha
    "ipndm(order=4)": 2,
}


class Gaussian:
    """The exact x0 for data of mean MEAN and standard deviation WIDTH."""

    def denoise(self, x: torch.Tensor, level: Level) -> torch.Tensor:
        power = (level.alpha * WIDTH) ** 2 + level.sigma**2
        return MEAN + level.alpha * WIDTH**2 / power * (x - level.alpha * MEAN)

    @staticmethod
    def end(x: torch.Tensor, here: Level, there: Level) -> torch.Tensor:
        """The ODE keeps the number of standard deviations from the mean."""
        one = math.hypot(here.alpha * WIDTH, here.sigma)
        other = math.hypot(there.alpha * WIDTH, there.sigma)
        return there.alpha * MEAN + other * (x - here.alpha * MEAN) / one


class Mixture:
    """The exact x0 for two equally likely Gaussians at -1 and 1: not linear in x."""

    def denoise(self, x: torch.Tensor, level: Level) -> torch.Tensor:
        width = 0.5
        power = (level.alpha * width) ** 2 + level.sigma**2
        share = torch.tanh(level.alpha * x / power)
        return share + level.alpha * width**2 / power * (x - level.alpha * share)


def even(where: NoiseSchedule, steps: int) -> list[Level]:
    """Evenly in log-SNR from hardly any signal to hardly any noise, where x0 barely moves, so that
    the low orders a multistep solver begins and ends with do not show."""
    return [where.at(where.position(float(v))) for v in np.linspace(-5.0, 7.0, steps + 1)]


def slope(steps: list[int], errors: list[float]) -> float:
    return -float(np.polyfit(np.log(steps), np.log(errors), 1)[0])


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize(("text", "order"), ORDERS.items())
def test_error_falls_with_the_order_on_gaussian_data(text: str, order: int, name: str) -> None:
    """0.3 is what constants of the next order leave in a fit over these step counts."""
    solver, counts, errors = solvers.parse(text), [32, 64, 128, 256], []
    for steps in counts:
        levels = even(PATHS[name], steps)
        x = torch.tensor([-1.7, 0.4, 2.0], dtype=torch.float64) * levels[0].spread
        end = drive(solver.walk(x, levels), session_of(Gaussian().denoise))
        errors.append(float((end - Gaussian.end(x, levels[0], levels[-1])).abs().max()))
    assert slope(counts, errors) >= order - 0.3


@pytest.fixture(scope="module")
def mixture_truth() -> torch.Tensor:
    """Classical Runge-Kutta in log(sigma / alpha) on the ODE d(x/alpha) = noise d(sigma/alpha)."""
    steps, model = 6000, Mixture()
    logs = np.linspace(5.0, -7.0, steps + 1)
    where = schedule("edm")

    def rate(x: torch.Tensor, log: float) -> torch.Tensor:
        level = where.at(math.exp(log))
        return x - model.denoise(x, level)

    x = torch.tensor([-1.7, 0.4, 2.0], dtype=torch.float64) * where.at(math.exp(5.0)).spread
    for u, v in pairwise(logs):
        h = v - u
        a = rate(x, u)
        b = rate(x + h / 2 * a, u + h / 2)
        c = rate(x + h / 2 * b, u + h / 2)
        d = rate(x + h * c, v)
        x = x + h / 6 * (a + 2 * b + 2 * c + d)
    return x


@pytest.mark.parametrize(("text", "order"), ORDERS.items())
def test_error_falls_with_the_order_on_a_mixture(
    text: str, order: int, mixture_truth: torch.Tensor
) -> None:
    solver, counts, errors = solvers.parse(text), [64, 128, 256, 512], []
    for steps in counts:
        levels = even(schedule("edm"), steps)
        x = torch.tensor([-1.7, 0.4, 2.0], dtype=torch.float64) * levels[0].spread
        end = drive(solver.walk(x, levels), session_of(Mixture().denoise))
        errors.append(float((end - mixture_truth).abs().max()))
    assert slope(counts, errors) >= order - 0.3


def test_ipndm_has_its_full_order_where_the_ratio_is_even() -> None:
    """Constant-step Adams-Bashforth, on a grid where the step is constant."""
    for order in (3, 4):
        solver, counts, errors = solvers.make("ipndm", {"order": order}), [400, 800, 1600], []
        for steps in counts:
            levels = [schedule("edm").at(float(s)) for s in np.linspace(40.0, 0.5, steps + 1)]
            x = torch.tensor([3.0], dtype=torch.float64) * levels[0].spread
            end = drive(solver.walk(x, levels), session_of(Gaussian().denoise))
            errors.append(float((end - Gaussian.end(x, levels[0], levels[-1])).abs().max()))
        assert slope(counts, errors) >= order - 0.3


def test_published_3m_weights_leave_order_two() -> None:
    """Known: the authors' code (and diffusers and k-diffusion after it) takes half of the second
    derivative's weight in dpmpp(order=3); unipc(order=3, corrector=False) takes all of it."""
    ends, errors = [128, 256, 512], {}
    for text in ("dpmpp(order=3)", "unipc(order=3, corrector=False)"):
        errors[text] = []
        for steps in ends:
            levels = even(PATHS["flow"], steps)
            x = torch.tensor([1.3], dtype=torch.float64) * levels[0].spread
            end = drive(solvers.parse(text).walk(x, levels), session_of(Gaussian().denoise))
            errors[text].append(float((end - Gaussian.end(x, levels[0], levels[-1])).abs()))
    published, full = errors.values()
    assert 1.7 <= slope(ends, published) <= 2.3
    assert full[-1] < published[-1] / 100


class Moments:
    """Runs a Program on distributions: a latent is its coefficients over (1, start, z0, z1, ...),
    so that mean and variance come out exactly where the denoiser is linear."""

    def __init__(self, draws: int) -> None:
        self.size, self.drawn = 2 + draws, 0

    def denoise(self, x: torch.Tensor, level: Level) -> torch.Tensor:
        power = (level.alpha * WIDTH) ** 2 + level.sigma**2
        gain = level.alpha * WIDTH**2 / power
        return gain * x + self.unit(0) * MEAN * (1 - gain * level.alpha)

    def session(self) -> Session:
        """A run of its answers; a learned variance is in the middle of its range."""

        def answer(x: torch.Tensor, level: Level) -> tuple[torch.Tensor, torch.Tensor]:
            return self.denoise(x, level), torch.zeros((), dtype=torch.float64)

        return session_of(answer, self.noise)

    def noise(self) -> torch.Tensor:
        self.drawn += 1
        return self.unit(1 + self.drawn)

    def unit(self, index: int) -> torch.Tensor:
        out = torch.zeros(self.size, dtype=torch.float64)
        out[index] = 1.0
        return out


def moments(text: str, levels: list[Level]) -> tuple[float, float]:
    """Exact mean and variance of what ``text`` makes of a start drawn at ``levels[0]``."""
    program = trace(solvers.parse(text), levels)
    backend, here = Moments(program.draws), levels[0]
    x = backend.unit(0) * here.alpha * MEAN
    x = x + backend.unit(1) * math.hypot(here.alpha * WIDTH, here.sigma)
    end = Sequential().run(program, {"x": x}, backend.session())
    return float(end[0]), float((end[1:] ** 2).sum())


@pytest.mark.parametrize(
    ("text", "order"),
    [
        ("ddpm", 1),
        ("ddpm(variance='large')", 1),
        ("ddpm(variance='learned')", 1),
        ("ddim(eta=0.5)", 1),
        ("ddim(eta=1.0)", 1),
        ("dpmpp-sde(order=1)", 1),
        ("dpmpp-sde(order=2)", 1.5),
        ("euler(churn=4.0)", 1),
        ("heun(churn=4.0)", 2),
        ("restart(repeats=3, steps=1000, low=0.1, high=2.0)", 2),
    ],
)
@pytest.mark.parametrize("name", PATHS)
def test_noise_drawn_on_the_way_keeps_the_distribution(text: str, order: float, name: str) -> None:
    """Mean and variance converge to those of the data as noised at the last level."""
    counts, errors = [32, 64, 128, 256], []
    for steps in counts:
        levels = even(PATHS[name], steps)
        mean, variance = moments(text, levels)
        there = levels[-1]
        wanted = (there.alpha * WIDTH) ** 2 + there.sigma**2
        errors.append(max(abs(mean - there.alpha * MEAN), abs(variance - wanted)))
    assert slope(counts, errors) >= order - 0.3
    assert errors[-1] < 0.02


@pytest.mark.parametrize("name", PATHS)
def test_consistency_sampling_is_exact_at_any_number_of_steps(name: str) -> None:
    """With the exact map from a level to the ODE's end for f, every step keeps the distribution."""

    class Consistent(Moments):
        def denoise(self, x: torch.Tensor, level: Level) -> torch.Tensor:
            scale = WIDTH / math.hypot(level.alpha * WIDTH, level.sigma)
            return scale * x + self.unit(0) * MEAN * (1 - scale * level.alpha)

    for steps in (1, 2, 5):
        levels = grids.parse("uniform").levels(PATHS[name], steps)
        program = trace(solvers.parse("consistency"), levels)
        backend, here = Consistent(program.draws), levels[0]
        x = backend.unit(0) * here.alpha * MEAN
        x = x + backend.unit(1) * math.hypot(here.alpha * WIDTH, here.sigma)
        end = Sequential().run(program, {"x": x}, backend.session())
        assert abs(float(end[0]) - MEAN) <= 1e-12
        assert abs(float((end[1:] ** 2).sum()) - WIDTH**2) <= 1e-12


def test_a_thousand_ancestral_steps_give_the_data() -> None:
    """DDPM as published, with the exact denoiser: 0.5 percent is what its 1000 steps leave."""
    levels = grids.parse("uniform").levels(PATHS["ddpm"], 1000)
    mean, variance = moments("ddpm(variance='large')", list(levels))
    assert abs(mean - MEAN) <= 0.005 * MEAN
    assert abs(math.sqrt(variance) - WIDTH) <= 0.005 * WIDTH
