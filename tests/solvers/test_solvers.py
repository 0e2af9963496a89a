"""What every registered solver promises, on every kind of path."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch

import hasten.grids
import hasten.solvers  # noqa: F401
from conftest import session_of
from hasten.adapters.schedules import betas
from hasten.core.errors import UserError
from hasten.core.grid import grids
from hasten.core.level import Level
from hasten.core.noise_schedule import Discrete, NoiseSchedule, schedule
from hasten.core.program import Program
from hasten.core.session import Session, drive
from hasten.core.solver import Clipped, solvers, trace
from hasten.executors.sequential import Sequential
from hasten.solvers.steps import phi

OPTIONS = [
    "ddim(eta=0.5)",
    "ddim(eta=1.0)",
    "ddpm(variance='large')",
    "ddpm(variance='learned')",
    "euler(churn=5.0)",
    "heun(churn=5.0, s_min=0.05, s_max=50.0, s_noise=1.003)",
    "dpmpp(order=1)",
    "dpmpp(order=3)",
    "dpmpp(order=2, singlestep=True)",
    "dpmpp(order=3, singlestep=True)",
    "dpmpp-sde(order=1)",
    "unipc(order=1)",
    "unipc(order=3)",
    "unipc(order=3, variant='bh1')",
    "unipc(order=3, corrector=False)",
    "deis(order=1)",
    "deis(order=2)",
    "ipndm(order=1)",
    "ipndm(order=2)",
    "restart(repeats=3, steps=1, low=0.1, high=2.0)",
]
TRACED = [text for text in [*solvers, *OPTIONS] if solvers.parse(text).traceable]
SURE = [text for text in TRACED if not solvers.parse(text).draws_noise()]
PATHS: dict[str, NoiseSchedule] = {
    "vp-linear": schedule("vp-linear"),
    "vp-cosine": schedule("vp-cosine"),
    "edm": schedule("edm"),
    "flow": schedule("flow"),
    "flow-shifted": schedule("flow(shift=3.0)"),
    "ddpm": schedule("ddpm"),
    "zero-terminal": Discrete.from_betas(betas("linear", 1000, 1e-4, 0.02), zero_terminal_snr=True),
    "learned": schedule("learned"),
}


class Network:
    """Answers in float64 of a smooth network that is not linear; the same noise every run."""

    def __init__(self, shape: tuple[int, ...] = (2, 3)) -> None:
        self.shape, self.generator = shape, torch.Generator().manual_seed(7)
        self.asked: list[Level] = []

    def denoise(self, x: torch.Tensor, level: Level) -> torch.Tensor:
        self.asked.append(level)
        return torch.tanh(1.5 * x / level.spread + 0.2 * math.sin(level.t))

    def denoise_with_variance(
        self, x: torch.Tensor, level: Level
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return self.denoise(x, level), torch.sin(3 * x / level.spread)

    def session(self) -> Session:
        """A run of its answers."""
        return session_of(self.denoise_with_variance, self.noise)

    def noise(self) -> torch.Tensor:
        return torch.randn(self.shape, generator=self.generator, dtype=torch.float64)


def start(level: Level) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return level.spread * torch.randn(2, 3, generator=generator, dtype=torch.float64)


def open_levels(
    where: NoiseSchedule, count: int, high: float = 60.0, low: float = 0.01
) -> list[Level]:
    """Levels evenly in log-SNR that all have signal and noise."""
    logs = torch.linspace(math.log(high), math.log(low), count + 1, dtype=torch.float64)
    return [where.at(where.position(-float(value))) for value in logs]


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("text", TRACED)
def test_the_traced_program_is_the_walk(text: str, name: str) -> None:
    """Within 1e-12 of the start's size (rounding of a few sums); finite at any number of steps."""
    solver = solvers.parse(text)
    for grid, steps in (("uniform", 1), ("log-snr", 2), ("uniform", 3), ("log-snr", 9)):
        levels = grids.parse(grid).levels(PATHS[name], steps)
        program = trace(solver, levels)
        assert Program.from_json(program.to_json()) == program
        x = start(levels[0])
        traced = Sequential().run(program, {"x": x}, Network().session())
        direct = drive(solver.walk(x, levels), Network().session())
        assert torch.isfinite(direct).all()
        assert (traced - direct).abs().max() <= 1e-12 * levels[0].spread


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("text", TRACED)
def test_one_step_is_one_evaluation_and_its_x0(text: str, name: str) -> None:
    levels = grids.parse("log-snr").levels(PATHS[name], 1)
    program = trace(solvers.parse(text), levels)
    x = start(levels[0])
    assert (program.evaluations, program.draws) == (1, 0)
    answer = Sequential().run(program, {"x": x}, Network().session())
    assert torch.allclose(answer, Network().denoise(x, levels[0]), rtol=0, atol=1e-13)


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("text", SURE)
def test_a_constant_answer_is_followed_exactly(text: str, name: str) -> None:
    """While x0 stays the same, so does the noise, and x = alpha x0 + sigma noise at every level."""
    levels = open_levels(PATHS[name], 7) if name != "learned" else open_levels(PATHS[name], 7, 10.0)
    x0, noise = torch.full((2, 3), 0.7, dtype=torch.float64), start(Level(0.0, 1.0, 0.0))

    class Constant(Network):
        def denoise(self, x: torch.Tensor, level: Level) -> torch.Tensor:
            expected = level.alpha * x0 + level.sigma * noise
            assert (x - expected).abs().max() <= 1e-11 * level.spread
            return x0

    x = levels[0].alpha * x0 + levels[0].sigma * noise
    end = Sequential().run(trace(solvers.parse(text), levels), {"x": x}, Constant().session())
    assert (end - (levels[-1].alpha * x0 + levels[-1].sigma * noise)).abs().max() <= 1e-11


@pytest.mark.parametrize("text", SURE)
def test_a_solver_sees_only_the_ratio_of_signal_and_noise(text: str) -> None:
    """The same answers at the same log-SNR give the same picture on every path."""
    ends = []
    for name in ("vp-linear", "edm", "flow", "ddpm"):
        levels = open_levels(PATHS[name], 12)

        class Same(Network):
            def denoise(self, x: torch.Tensor, level: Level) -> torch.Tensor:
                return torch.tanh(x / level.spread)

        x = start(Level(0.0, 1.0, 0.0)) * levels[0].spread
        end = Sequential().run(trace(solvers.parse(text), levels), {"x": x}, Same().session())
        ends.append(end / levels[-1].spread)
    for end in ends[1:]:
        assert (end - ends[0]).abs().max() <= 1e-10


@pytest.mark.parametrize("text", TRACED)
def test_a_solver_says_truly_whether_it_draws_noise(text: str) -> None:
    solver = solvers.parse(text)
    program = trace(solver, grids.parse("karras").levels(PATHS["edm"], 12))
    assert (program.draws > 0) == solver.draws_noise()


@pytest.mark.parametrize("text", TRACED)
def test_every_level_asked_about_is_on_the_grid_unless_churned(text: str) -> None:
    solver = solvers.parse(text)
    levels = grids.parse("log-snr").levels(PATHS["vp-linear"], 10)
    asked = trace(solver, levels).levels
    if getattr(solver, "churn", 0.0) == 0:
        assert set(asked) <= set(levels[:-1])


@pytest.mark.parametrize(
    ("text", "peak"),
    [
        ("ddim", 3),
        ("ddpm", 4),
        ("ddpm(variance='large')", 4),
        ("ddpm(variance='learned')", 5),
        ("consistency", 3),
        ("euler(churn=5.0)", 4),
        ("heun", 5),
        ("heun(churn=5.0)", 6),
        ("restart", 6),
        ("dpmpp(order=2)", 4),
        ("dpmpp(order=3)", 5),
        ("dpmpp(order=3, singlestep=True)", 5),
        ("dpmpp-sde(order=2)", 5),
        ("unipc(order=2)", 5),
        ("unipc(order=3)", 6),
        ("unipc(order=3, corrector=False)", 5),
        ("deis(order=3)", 6),
        ("ipndm(order=4)", 7),
    ],
)
def test_memory_does_not_grow_with_the_steps(text: str, peak: int) -> None:
    for steps in (20, 1000):
        program = trace(solvers.parse(text), grids.parse("uniform").levels(PATHS["ddpm"], steps))
        assert program.peak <= peak


@pytest.mark.parametrize("variance", ["small", "large"])
def test_ancestral_noise_has_the_textbook_size_at_one_table_step(variance: str) -> None:
    """beta_t and its posterior share (2006.11239, section 3.2), from the betas themselves."""
    table = betas("linear", 1000, 1e-4, 0.02)
    where = Discrete.from_betas(table)
    kept = 1 - table
    for t in (999, 500, 1):
        program = trace(solvers.parse(f"ddpm({variance=})"), [where.at(t), where.at(t - 1)])
        coefficient = program.rows[-1].ask.coefficients[-1]
        share = (1 - kept[:t].prod()) / (1 - kept[: t + 1].prod()) if variance == "small" else 1.0
        assert math.isclose(coefficient**2, share * table[t], rel_tol=1e-9)


def test_a_learned_variance_reaches_the_small_and_the_large_one() -> None:
    levels = grids.parse("uniform").levels(PATHS["ddpm"], 8)

    class Says(Network):
        def __init__(self, value: float) -> None:
            super().__init__()
            self.value = value

        def denoise_with_variance(self, x, level):
            return self.denoise(x, level), torch.full_like(x, self.value)

    for value, variance in ((-1.0, "small"), (1.0, "large")):
        learned = trace(solvers.parse("ddpm(variance='learned')"), levels)
        fixed = trace(solvers.parse(f"ddpm({variance=})"), levels)
        one = Sequential().run(learned, {"x": start(levels[0])}, Says(value).session())
        other = Sequential().run(fixed, {"x": start(levels[0])}, Network().session())
        assert (one - other).abs().max() <= 1e-12


@pytest.mark.parametrize("name", ["vp-linear", "edm", "flow", "ddpm"])
def test_a_churned_level_lies_on_the_path(name: str) -> None:
    """alpha and sigma to rounding, everywhere; the time told to the network exactly on EDM, within
    a fifth of the distance to the next level elsewhere (it is read between levels)."""
    where = PATHS[name]
    levels = grids.parse("log-snr").levels(where, 40)[1:]
    network = Network()
    drive(solvers.parse("euler(churn=8.0)").walk(start(levels[0]), levels), network.session())
    assert len(set(network.asked) - set(levels)) >= 30
    for asked, here, there in zip(network.asked, levels, levels[1:-1], strict=False):
        true = where.at(where.position(asked.half_log_snr))
        assert math.isclose(asked.alpha, true.alpha, rel_tol=1e-9)
        assert math.isclose(asked.sigma, true.sigma, rel_tol=1e-9)
        slack = 1e-9 if name == "edm" else 0.2 * (here.t - there.t)
        assert abs(asked.t - true.t) <= slack


def test_churned_heun_is_algorithm_two_of_edm() -> None:
    """Against the algorithm written out on plain sigmas."""
    levels = grids.parse("karras").levels(PATHS["edm"], 10)
    options = {"churn": 6.0, "s_min": 0.05, "s_max": 20.0, "s_noise": 1.01}
    solver = solvers.make("heun", options)
    program = trace(solver, levels)
    ours = Sequential().run(program, {"x": start(levels[0])}, Network().session())

    network, x = Network(), start(levels[0])

    def slope(x: torch.Tensor, sigma: float) -> torch.Tensor:
        return (x - network.denoise(x, Level(math.log(sigma) / 4, 1.0, sigma))) / sigma

    for here, there in pairwise(levels):
        gamma = min(6.0 / 10, math.sqrt(2) - 1) if 0.05 <= here.sigma <= 20.0 else 0.0
        high = here.sigma * (1 + gamma)
        if gamma:
            x = x + 1.01 * math.sqrt(high**2 - here.sigma**2) * network.noise()
        d = slope(x, high)
        step = x + (there.sigma - high) * d
        if there.sigma > 0:
            step = x + (there.sigma - high) * 0.5 * (d + slope(step, there.sigma))
        x = step
    assert (ours - x).abs().max() <= 1e-11


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_phi_functions_do_not_cancel_at_small_steps(order: int) -> None:
    """Against the integral phi_k(z) = int_0^1 e^((1 - s) z) s^(k - 1) / (k - 1)! ds; the largest
    error of the recursion is where it takes over from the series, at 1."""
    nodes, weights = np.polynomial.legendre.leggauss(40)
    s = (nodes + 1) / 2
    for z in (-1e-9, -1e-3, -0.5, -0.999999, -1.000001, -7.0, 0.3, 2.0):
        values = np.exp((1 - s) * z) * s ** (order - 1) / math.factorial(order - 1)
        assert math.isclose(phi(order, z), float(weights @ values / 2), rel_tol=1e-13)


def test_restart_goes_back_to_the_nearest_levels() -> None:
    levels = grids.parse("karras").levels(PATHS["edm"], 18)
    network = Network()
    solver = solvers.parse("restart(repeats=2, steps=2, low=0.06, high=0.3)")
    drive(solver.walk(start(levels[0]), levels), network.session())
    sigmas = [level.sigma for level in levels]
    asked = [level.sigma for level in network.asked]
    top = min(sigmas[:-1], key=lambda s: abs(math.log(s / 0.3)))
    low = min(sigmas[:-1], key=lambda s: abs(math.log(s / 0.06)))
    again = trace(solver, levels).evaluations - trace(solvers.parse("heun"), levels).evaluations
    assert again == 2 * 2 * 2  # repeats, steps, two evaluations a step
    assert asked.count(top) == 2 + 2
    assert asked.count(low) == 2 + 2


def test_clipping_wraps_every_solver() -> None:
    levels = grids.parse("uniform").levels(PATHS["ddpm"], 6)
    for text in TRACED:
        program = trace(Clipped(solver=solvers.parse(text), bound=0.3), levels)
        answer = Sequential().run(program, {"x": start(levels[0])}, Network().session())
        assert answer.abs().max() <= 0.3 + 1e-12  # the last step ends at the clipped x0


@pytest.mark.parametrize(
    "text",
    [
        "ddpm(variance='medium')",
        "ddim(eta=1.5)",
        "euler(churn=-1.0)",
        "heun(s_min=2.0, s_max=1.0)",
        "dpmpp(order=4)",
        "dpmpp(singlestep='yes')",
        "dpmpp-sde(order=3)",
        "unipc(variant='bh3')",
        "unipc(corrector=1)",
        "deis(order=0)",
        "ipndm(order=5)",
        "restart(low=0.5, high=0.1)",
        "restart(repeats=0)",
    ],
)
def test_a_wrong_option_is_refused_by_name(text: str) -> None:
    with pytest.raises(UserError, match="solver option"):
        solvers.parse(text)
