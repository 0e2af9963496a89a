"""Same weights, same noise: hasten's pictures against diffusers' own schedulers in a plain loop."""

from __future__ import annotations

import dataclasses
from typing import Any

import diffusers
import torch

import hasten
from benchmarks.results_io import write
from hasten.core.model import Model
from hasten.core.noise_schedule import Discrete
from hasten.core.random_streams import generator
from hasten.core.solver import trace
from hasten.sampling import START, WALK

N, LABEL = 4, 7
LEADING = {"timestep_spacing": "leading"}
TRAILING = {"timestep_spacing": "trailing"}
DPM = {"final_sigmas_type": "zero", "use_karras_sigmas": False, **TRAILING}
CASES: list[tuple[str, Any, dict[str, Any], str, str, int]] = [
    ("DDPM", diffusers.DDPMScheduler, {}, "ddpm", "uniform(spacing='leading')", 1000),
    ("DDPM", diffusers.DDPMScheduler, {}, "ddpm", "uniform(spacing='leading')", 50),
    ("DDIM", diffusers.DDIMScheduler, {}, "ddim", "uniform(spacing='leading')", 50),
    ("DDIM", diffusers.DDIMScheduler, {}, "ddim", "uniform(spacing='leading')", 20),
    ("DPM++ 1", diffusers.DPMSolverMultistepScheduler, {**DPM, "solver_order": 1},
     "dpmpp(order=1)", "uniform", 20),
    ("DPM++ 2M", diffusers.DPMSolverMultistepScheduler, {**DPM, "solver_order": 2},
     "dpmpp(order=2)", "uniform", 20),
    ("DPM++ 3M", diffusers.DPMSolverMultistepScheduler, {**DPM, "solver_order": 3},
     "dpmpp(order=3)", "uniform", 20),
    ("UniPC 2 bh2", diffusers.UniPCMultistepScheduler, {**DPM, "solver_order": 2},
     "unipc(order=2)", "uniform", 20),
    ("UniPC 3 bh2", diffusers.UniPCMultistepScheduler, {**DPM, "solver_order": 3},
     "unipc(order=3)", "uniform", 20),
    ("DEIS 2", diffusers.DEISMultistepScheduler, {"solver_order": 2, **TRAILING},
     "deis(order=2)", "uniform", 20),
    ("DEIS 3", diffusers.DEISMultistepScheduler, {"solver_order": 3, **TRAILING},
     "deis(order=3)", "uniform", 20),
    ("Heun", diffusers.HeunDiscreteScheduler, LEADING,
     "heun", "uniform(spacing='leading')", 20),
    ("Euler", diffusers.EulerDiscreteScheduler, LEADING,
     "euler", "uniform(spacing='leading')", 20),
]  # fmt: skip


@torch.inference_mode()
def theirs(model: Model, scheduler: Any, steps: int, noise: torch.Tensor) -> torch.Tensor:
    """diffusers' loop over ``scheduler``; noise on the way from the same generators as ours."""
    scheduler.set_timesteps(steps)
    x = noise * scheduler.init_noise_sigma
    draws = [generator(0, picture, WALK) for picture in range(len(noise))]
    labels = torch.full((len(noise),), LABEL)
    ancestral = "DDPM" in type(scheduler).__name__
    for t in scheduler.timesteps:
        answer = model.net(scheduler.scale_model_input(x, t), t.expand(len(x)).float(), labels)
        options = {"generator": draws} if ancestral else {}
        x = scheduler.step(answer, t, x, **options).prev_sample
    return x


def compared(model: Model, case: tuple[Any, ...]) -> dict[str, Any]:
    """One row: the largest difference of any number in N latents."""
    name, kind, options, solver, grid, steps = case
    fixed = {"clip_sample": False} if name.startswith("DD") else {}
    if name == "DDIM":
        fixed["set_alpha_to_one"] = True
    scheduler = kind(num_train_timesteps=1000, **options, **fixed)
    table = tuple(scheduler.alphas_cumprod.double().tolist())
    schedule = Discrete(
        alphas_cumprod=table
    )  # their float32 table, so that only the sampling differs
    noise = torch.stack(
        [torch.randn(model.shape, generator=generator(0, i, START)) for i in range(N)]
    )
    sampler = hasten.build(
        dataclasses.replace(model, schedule=schedule),
        hasten.Plan(solver=solver, grid=grid, steps=steps),
    )
    if name.startswith("DEIS"):  # theirs stops at the first level of the table, not at a picture
        levels = (*sampler.levels[:-1], schedule.at(0))
        program = trace(sampler.solver, levels)
        sampler = dataclasses.replace(sampler, levels=levels, program=program)
    ours = sampler.sample(N, noise=noise, condition=LABEL, raw=True)
    apart = (ours - theirs(model, scheduler, steps, noise)).abs()
    return {
        "sampler": name,
        "steps": steps,
        "plan": f"{solver}, {grid}",
        "max_abs_difference": float(apart.max()),
        "n": N,
    }


def main() -> None:
    model = hasten.load("builtin:mnist")
    rows = [compared(model, case) for case in CASES]
    write("right", "largest difference between hasten's and diffusers' latents", rows)


if __name__ == "__main__":
    main()
