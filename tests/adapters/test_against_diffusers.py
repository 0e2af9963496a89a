"""Solvers against the schedulers of diffusers, step by step, on the same network and noise.

Their tables are put into float64 first, so what is compared is the formulas; where they cast the
latent to float32 on the way the tolerance is float32's. The network is smooth and not linear.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DEISMultistepScheduler,
    DPMSolverMultistepScheduler,
    DPMSolverSinglestepScheduler,
    EDMEulerScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    HeunDiscreteScheduler,
    IPNDMScheduler,
    UniPCMultistepScheduler,
)

import hasten.grids
import hasten.solvers  # noqa: F401
from hasten.adapters.schedules import schedule
from hasten.core.call import Answer, Call
from hasten.core.grid import grids
from hasten.core.level import Level
from hasten.core.noise_schedule import Discrete
from hasten.core.prediction import prediction
from hasten.core.session import Session, drive
from hasten.core.solver import solvers

EXACT = 1e-9  # float64 through hundreds of steps
FLOAT32 = 2e-5  # their latent is float32 between steps


def network(x: torch.Tensor, t: float) -> torch.Tensor:
    """What a network might say: smooth in x and t, of order one."""
    return torch.tanh(0.8 * x + 0.3 * math.sin(float(t) / 150))


def beginning(spread: float = 1.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return spread * torch.randn(4, 2, generator=generator, dtype=torch.float64)


def draws() -> Callable[[], torch.Tensor]:
    generator = torch.Generator().manual_seed(11)
    return lambda: torch.randn(4, 2, generator=generator, dtype=torch.float64)


class Ours:
    """A Denoiser that writes down every latent it is asked about."""

    def __init__(self, predicts: str = "epsilon") -> None:
        self.prediction, self.seen = prediction(predicts), []

    def __call__(self, calls: Sequence[Call]) -> list[Answer]:
        (call,) = calls
        self.seen.append(call.x)
        x0 = self.x0(call.x, call.levels[0])
        return [Answer(x0=x0, variance=torch.sin(2 * call.x))]

    def x0(self, x: torch.Tensor, level: Level) -> torch.Tensor:
        how = self.prediction.at(level)
        return how.skip * x + how.out * network(how.scale * x, level.t)


def ours(
    solver: str, levels: Sequence[Level], x: torch.Tensor, predicts: str = "epsilon"
) -> list[torch.Tensor]:
    """Every latent the network is asked about, and the result."""
    denoiser = Ours(predicts)
    end = drive(solvers.parse(solver).walk(x, levels), Session(denoiser, draws()))
    return [*denoiser.seen, end]


def theirs(scheduler: Any, x: torch.Tensor, scale: Sequence[float], **options: Any) -> list:
    """The same of a scheduler; ``scale`` turns its latents at each time into x."""
    seen, noise = [], draws()
    for index, t in enumerate(scheduler.timesteps):
        scaled = scheduler.scale_model_input(x, t)
        seen.append(x * scale[index])
        step = dict(options)
        if "variance_noise" in step:
            step["variance_noise"] = noise()
        output = network(scaled, float(t)).to(torch.float64)
        x = scheduler.step(output, t, x, **step).prev_sample.to(torch.float64)
    return [*seen, x]


def compare(one: list[torch.Tensor], other: list[torch.Tensor], tolerance: float) -> None:
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        assert (a - b).abs().max() <= tolerance * max(1.0, float(b.abs().max()))


def table_levels(scheduler: Any, times: Sequence[float] | None = None) -> list[Level]:
    """Their own alphas_cumprod and times as our levels; it goes into float64 there as well."""
    scheduler.alphas_cumprod = scheduler.alphas_cumprod.double()
    if hasattr(scheduler, "one"):
        scheduler.one = scheduler.one.double()
    where = Discrete(alphas_cumprod=tuple(scheduler.alphas_cumprod.tolist()))
    times = scheduler.timesteps.tolist() if times is None else times
    levels = [where.at(float(t)) for t in times]
    return [*levels, where.at(where.clean)]


def sharpen_(scheduler: Any, levels: Sequence[Level]) -> None:
    """Our levels' sigma / alpha in float64 in place of their float32 ones."""
    assert len(scheduler.sigmas) == len(levels)
    ratios = torch.tensor([level.ratio for level in levels], dtype=torch.float64)
    assert torch.allclose(scheduler.sigmas.double(), ratios, rtol=2e-5)
    scheduler.sigmas = ratios


# --- ancestral and DDIM ---------------------------------------------------------------------------


@pytest.mark.parametrize("variance", ["small", "large", "learned"])
@pytest.mark.parametrize(
    ("steps", "spacing"), [(1000, "leading"), (50, "leading"), (50, "trailing")]
)
def test_ddpm(variance: str, steps: int, spacing: str) -> None:
    """Theirs adds noise of the last step's size to the result when the last time is not 0 (large
    and learned, trailing), so what is compared there is everything before it."""
    kind = "learned_range" if variance == "learned" else f"fixed_{variance}"
    scheduler = DDPMScheduler(variance_type=kind, timestep_spacing=spacing, clip_sample=False)
    scheduler.set_timesteps(steps)
    levels = table_levels(scheduler)
    x, noise, seen = beginning(), torch.Generator().manual_seed(11), []
    for t in scheduler.timesteps:
        seen.append(x)
        output = network(x, float(t))
        if variance == "learned":
            output = torch.cat([output, torch.sin(2 * x)], dim=1)
        x = scheduler.step(output, t, x, generator=noise).prev_sample
    mine = ours(f"ddpm({variance=})", levels, beginning())
    compare(mine[:-1], seen, EXACT)
    if spacing == "leading" or variance == "small":
        compare(mine[-1:], [x], EXACT)


@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize("steps", [50, 10, 1])
def test_ddim_with_leading_spacing(eta: float, steps: int) -> None:
    scheduler = DDIMScheduler(timestep_spacing="leading", set_alpha_to_one=True, clip_sample=False)
    scheduler.set_timesteps(steps)
    levels = table_levels(scheduler)
    scheduler.final_alpha_cumprod = scheduler.final_alpha_cumprod.double()
    options = {"eta": eta, "variance_noise": None} if eta else {}
    compare(
        ours(f"ddim({eta=})", levels, beginning()),
        theirs(scheduler, beginning(), [1.0] * steps, **options),
        EXACT,
    )


@pytest.mark.parametrize("text", ["ddim", "euler", "heun", "unipc", "dpmpp"])
@pytest.mark.parametrize("spacing", ["linspace", "trailing"])
def test_a_step_goes_to_the_level_that_comes_next(spacing: str, text: str) -> None:
    """Theirs steps by num_train_timesteps // steps whatever the schedule says
    (huggingface/diffusers#12633, #11347, #13108), so ours is held to the exact answer instead: for
    a network whose x0 stays the same, x = alpha x0 + sigma noise at each level it is asked at."""
    x0, noise = 0.4, beginning()
    for steps in (10, 13):
        levels = grids.make("uniform", {"spacing": spacing}).levels(schedule("ddpm"), steps)

        class Constant(Ours):
            def x0(self, x: torch.Tensor, level: Level) -> torch.Tensor:
                assert (x - level.alpha * x0 - level.sigma * noise).abs().max() <= 1e-12
                return torch.full_like(x, x0)

        x = levels[0].alpha * x0 + levels[0].sigma * noise
        end = drive(solvers.parse(text).walk(x, levels), Session(Constant(), draws()))
        assert (end - x0).abs().max() <= 1e-12


# --- multistep ------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("steps", [1, 2, 3, 8, 14, 15, 20])
def test_dpmpp_multistep(order: int, steps: int) -> None:
    scheduler = DPMSolverMultistepScheduler(solver_order=order, final_sigmas_type="zero")
    scheduler.set_timesteps(steps)
    levels = table_levels(scheduler)
    sharpen_(scheduler, levels)
    compare(
        ours(f"dpmpp({order=})", levels, beginning()),
        theirs(scheduler, beginning(), [1.0] * steps),
        FLOAT32,
    )


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("steps", [1, 2, 8, 20])
def test_dpmpp_sde(order: int, steps: int) -> None:
    scheduler = DPMSolverMultistepScheduler(
        solver_order=order, algorithm_type="sde-dpmsolver++", final_sigmas_type="zero"
    )
    scheduler.set_timesteps(steps)
    levels = table_levels(scheduler)
    sharpen_(scheduler, levels)
    compare(
        ours(f"dpmpp-sde({order=})", levels, beginning()),
        theirs(scheduler, beginning(), [1.0] * steps, variance_noise=None),
        FLOAT32,
    )


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("steps", [1, 2, 3, 4, 9, 10, 11])
def test_dpmpp_singlestep(order: int, steps: int) -> None:
    scheduler = DPMSolverSinglestepScheduler(solver_order=order, final_sigmas_type="zero")
    scheduler.set_timesteps(steps)
    levels = table_levels(scheduler)
    sharpen_(scheduler, levels)
    compare(
        ours(f"dpmpp({order=}, singlestep=True)", levels, beginning()),
        theirs(scheduler, beginning(), [1.0] * steps),
        EXACT,
    )


@pytest.mark.parametrize("variant", ["bh1", "bh2"])
@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("steps", [1, 2, 3, 8, 20])
def test_unipc(order: int, steps: int, variant: str) -> None:
    """With bh1 theirs computes inf * 0 on the step to sigma = 0 and returns NaN (diffusers 0.42.1,
    its default final_sigmas_type); ours ends at the last x0 there."""
    scheduler = UniPCMultistepScheduler(
        solver_order=order, solver_type=variant, final_sigmas_type="zero"
    )
    scheduler.set_timesteps(steps)
    levels = table_levels(scheduler)
    sharpen_(scheduler, levels)
    mine = ours(f"unipc({order=}, {variant=})", levels, beginning())
    other = theirs(scheduler, beginning(), [1.0] * steps)
    if variant == "bh1":
        other[-1] = Ours().x0(other[-2], levels[-2])
    compare(mine, other, EXACT)


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("steps", [1, 2, 3, 8, 20])
def test_deis(order: int, steps: int) -> None:
    """To the first entry of the table, not to sigma = 0, where theirs does not go."""
    scheduler = DEISMultistepScheduler(solver_order=order)
    scheduler.set_timesteps(steps)
    levels = table_levels(scheduler, [*scheduler.timesteps.tolist(), 0.0])[:-1]
    sharpen_(scheduler, levels)
    compare(
        ours(f"deis({order=})", levels, beginning()),
        theirs(scheduler, beginning(), [1.0] * steps),
        EXACT,
    )


# --- in x / alpha against sigma / alpha -----------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 2, 10, 30])
@pytest.mark.parametrize("karras", [False, True])
def test_euler(steps: int, karras: bool) -> None:
    scheduler = EulerDiscreteScheduler(use_karras_sigmas=karras, timestep_spacing="leading")
    scheduler.set_timesteps(steps)
    levels = table_levels(scheduler)
    sharpen_(scheduler, levels)
    alphas = [level.alpha for level in levels]
    compare(
        ours("euler", levels, beginning()),
        theirs(scheduler, beginning(1 / alphas[0]), alphas),
        FLOAT32,
    )


@pytest.mark.parametrize("steps", [1, 2, 10, 30])
def test_heun(steps: int) -> None:
    scheduler = HeunDiscreteScheduler(timestep_spacing="leading")
    scheduler.set_timesteps(steps)
    times = [scheduler.timesteps[0].item(), *scheduler.timesteps[1::2].tolist()]
    levels = table_levels(scheduler, times)
    twice = [levels[0], *[level for level in levels[1:-1] for _ in range(2)], levels[-1]]
    sharpen_(scheduler, twice)
    alphas = [levels[0].alpha, *[level.alpha for level in levels[1:-1] for _ in range(2)]]
    compare(
        ours("heun", levels, beginning()),
        theirs(scheduler, beginning(1 / alphas[0]), alphas),
        EXACT,
    )


@pytest.mark.parametrize("steps", [1, 2, 18])
def test_euler_of_edm(steps: int) -> None:
    scheduler = EDMEulerScheduler()
    scheduler.set_timesteps(steps)
    levels = list(grids.parse("karras").levels(schedule("edm"), steps))
    sharpen_(scheduler, levels)
    scheduler.timesteps = torch.tensor([level.t for level in levels[:-1]], dtype=torch.float64)
    compare(
        ours("euler", levels, beginning(80.0), "edm(sigma_data=0.5)"),
        theirs(scheduler, beginning(80.0), [1.0] * steps),
        FLOAT32,
    )


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize("steps", [1, 4, 20])
def test_euler_on_the_straight_path(steps: int, shift: float) -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(sigmas=[1 - i / steps for i in range(steps)])
    levels = list(grids.parse("uniform").levels(schedule(f"flow({shift=})"), steps))
    assert scheduler.timesteps.tolist() == pytest.approx([a.t for a in levels[:-1]], rel=1e-6)
    scheduler.sigmas = torch.tensor([a.sigma for a in levels], dtype=torch.float64)
    scheduler.timesteps = torch.tensor([a.t for a in levels[:-1]], dtype=torch.float64)
    scheduler.scale_model_input = lambda x, t: x
    compare(
        ours("euler", levels, beginning(), "flow"),
        theirs(scheduler, beginning(), [1.0] * steps),
        FLOAT32,
    )


def test_ipndm() -> None:
    """On variance-preserving levels with noise at both ends; theirs divides by alpha = 0 on its own
    first level, and its own last one is clean, where ours is first order."""
    sigmas = torch.linspace(0.999, 0.03, 13, dtype=torch.float64)
    scheduler = IPNDMScheduler(trained_betas=sigmas.tolist())
    scheduler.set_timesteps(12)
    scheduler.betas, scheduler.alphas = sigmas, (1 - sigmas**2).sqrt()
    times = [*scheduler.timesteps.tolist(), 0.0]
    levels = [Level(t, math.sqrt(1 - s**2), s) for t, s in zip(times, sigmas.tolist(), strict=True)]
    compare(
        ours("ipndm(order=4)", levels, beginning(), "v"),
        theirs(scheduler, beginning(), [1.0] * 12),
        EXACT,
    )


# --- schedules theirs cannot cross ----------------------------------------------------------------


@pytest.mark.parametrize("text", ["unipc(order=3)", "dpmpp(order=3)", "deis"])
@pytest.mark.parametrize("grid", ["karras", "log-snr", "quadratic"])
def test_any_grid_on_cosine_betas_converges(grid: str, text: str) -> None:
    """Theirs rounds the times of such a schedule to whole numbers, so noise and time disagree, and
    on cosine betas raises (huggingface/diffusers#12771); ours is held to the exact solution for
    Gaussian data. 1e-2 is what 60 steps of the least exact of these leave."""
    where = schedule({"_class_name": "DDPMScheduler", "beta_schedule": "squaredcos_cap_v2"})
    levels = grids.parse(grid).levels(where, 60)
    for here, there in pairwise(levels):
        assert here.t > there.t

    class Gaussian(Ours):
        def x0(self, x: torch.Tensor, level: Level) -> torch.Tensor:
            true = where.at(level.t)
            return true.alpha * 0.25 / (true.alpha**2 * 0.25 + true.sigma**2) * x

    x = beginning()
    end = drive(solvers.parse(text).walk(x, levels), Session(Gaussian(), draws()))
    exact = 0.5 * x / math.hypot(0.5 * levels[0].alpha, levels[0].sigma)
    assert (end - exact).abs().max() <= 1e-2
