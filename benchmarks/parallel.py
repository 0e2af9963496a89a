"""Parallel in time: rounds, evaluations and error against the sequential run, and against
ParaDiGMS as diffusers has it, on a tiny Stable Diffusion: ``python -m benchmarks.parallel``.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch

import hasten
from benchmarks.results_io import write
from hasten.core.call import Answer, Call, answered
from hasten.core.executor import executors
from hasten.core.noise_schedule import Discrete
from hasten.core.program import Program
from hasten.core.session import Session
from hasten.core.solver import trace
from hasten.core.usage import Counted
from hasten.measuring.timer import side_by_side
from hasten.solvers import DDIM

N = 4
ROUNDS = 3  # timed rounds of each plan
PLANS = {
    "DDPM-1000": ("solver=ddpm,grid=uniform,steps=1000", ["anderson(tolerance=5e-4)"]),
    "DDIM-100": (
        "solver=ddim,grid=uniform,steps=100",
        [
            "anderson(tolerance=5e-4)",
            "picard(tolerance=5e-4)",
            "picard(tolerance=5e-4, data_std=0.0)",
            "parareal(tolerance=5e-4)",
        ],
    ),
}
STEPS, WINDOW = 50, 10
PARADIGMS = (1e-1, 1e-2, 1e-3, 1e-4)
OURS = ("anderson", "picard")
TOLERANCES = (1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 1e-5)


def error(got: torch.Tensor, wanted: torch.Tensor) -> dict[str, float]:
    """Root mean square over all pictures, and of the worst of them."""
    each = (got - wanted).flatten(1).double().square().mean(1)
    return {"rmse": each.mean().sqrt().item(), "worst": each.max().sqrt().item()}


def on_mnist() -> list[dict[str, Any]]:
    """The targets on builtin:mnist: latents in [-1, 1] against those of the sequential run."""
    model, rows = hasten.load("builtin:mnist"), []
    net, condition = None, list(range(N))
    for name, (text, wide) in PLANS.items():
        plan = hasten.Plan.read(f"{text},engine=openvino")
        sampler = hasten.build(model, plan, net=net)
        net = sampler.net
        wanted = sampler.sample(N, condition=condition, raw=True)
        assert sampler.program is not None
        for executor in wide:
            other = hasten.build(model, _with(plan, executor), net=net)
            got = other.sample(N, condition=condition, raw=True)
            usage, row = other.usage, {"program": name, "executor": executor, "n": N}
            row |= {"rounds": usage.rounds, "evaluations": usage.evaluations}
            rows.append({**row, **error(got, wanted)})
            print(rows[-1], flush=True)
        rows[-len(wide)] |= _clock(sampler, hasten.build(model, _with(plan, wide[0]), net=net))
    return rows


def _with(plan: hasten.Plan, executor: str) -> hasten.Plan:
    return plan.model_copy(update={"executor": executor})


def _clock(row_by_row: hasten.Sampler, wide: hasten.Sampler) -> dict[str, float]:
    """Seconds of one picture, both ways in turn."""
    calls = [lambda one=one: one.sample(1, condition=3, raw=True) for one in (row_by_row, wide)]
    slow, fast = side_by_side(calls, rounds=ROUNDS)
    return {
        "sequential_s": slow.median,
        "parallel_s": fast.median,
        "times_faster": slow.median / fast.median,
        "timed": ROUNDS,
    }


def tiny_unet() -> Any:
    """A Stable Diffusion U-Net of real blocks, tiny, with random weights."""
    from diffusers import UNet2DConditionModel

    torch.manual_seed(0)
    return UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(32, 64),
        layers_per_block=2,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=32,
        attention_head_dim=8,
        norm_num_groups=8,
    ).eval()


class Prompted:
    """The x0 that an epsilon U-Net believes in, for one fixed prompt; all rows in one call."""

    def __init__(self, unet: Any, prompt: torch.Tensor) -> None:
        self.unet, self.prompt = unet, prompt

    def __call__(self, calls: Sequence[Call]) -> list[Answer]:
        return answered(calls, self._answer, WINDOW)

    def _answer(self, call: Call) -> Answer:
        x, prompt = call.x, self.prompt.expand(len(call), -1, -1)
        noise = self.unet(x, call.times, encoder_hidden_states=prompt, return_dict=False)[0]
        alpha, sigma = (
            torch.tensor([getattr(level, name) for level in call.levels]).view(-1, 1, 1, 1)
            for name in ("alpha", "sigma")
        )
        return Answer(x0=(x - sigma * noise) / alpha)


def paradigms(unet: Any, prompt: torch.Tensor, noise: torch.Tensor) -> Callable[..., Any]:
    """``call(parallel, tolerance)``: latents, rounds and evaluations of diffusers' pipeline."""
    from diffusers import AutoencoderKL, DDIMParallelScheduler, StableDiffusionParadigmsPipeline

    # Its parallel step takes the last alpha to be 1 whatever is set, so 1 is set.
    scheduler = DDIMParallelScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=True,
        steps_offset=1,
    )
    vae = AutoencoderKL(block_out_channels=(32,), norm_num_groups=8, latent_channels=4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipe = StableDiffusionParadigmsPipeline(
            vae=vae,
            text_encoder=None,  # type: ignore[arg-type]
            tokenizer=None,  # type: ignore[arg-type]
            unet=unet,
            scheduler=scheduler,
            safety_checker=None,  # type: ignore[arg-type]
            feature_extractor=None,  # type: ignore[arg-type]
            requires_safety_checker=False,
        )
    pipe.set_progress_bar_config(disable=True)

    def call(parallel: int, tolerance: float) -> tuple[torch.Tensor, int, int]:
        sizes: list[int] = []
        hook = unet.register_forward_pre_hook(lambda _, given: sizes.append(len(given[0])))
        latents = pipe(
            prompt_embeds=prompt,
            latents=noise.clone(),
            num_inference_steps=STEPS,
            parallel=parallel,
            tolerance=tolerance,
            guidance_scale=1.0,
            output_type="latent",
        ).images
        hook.remove()
        return latents, len(sizes), sum(sizes)

    call.scheduler = scheduler  # type: ignore[attr-defined]
    return call


@torch.no_grad()
def beside_paradigms() -> list[dict[str, Any]]:
    """DDIM-50 with a window of 10, picture after picture, as their stopping rule is one a batch."""
    unet, rows = tiny_unet(), []
    generator = torch.Generator().manual_seed(1)
    prompt = torch.randn(1, 8, 32, generator=generator)
    noises = [torch.randn(1, 4, 16, 16, generator=generator) for _ in range(N)]
    calls = [paradigms(unet, prompt, noise) for noise in noises]
    scheduler = calls[0].scheduler  # type: ignore[attr-defined]
    program = _ddim(scheduler)
    denoiser = Prompted(unet, prompt)
    wanted = [_ours("sequential", program, denoiser, noise)[0] for noise in noises]
    theirs = [call(1, 1e-9)[0] for call in calls]
    rows.append({"side": "diffusers, window 1, against hasten's sequential run", "n": N})
    rows[-1] |= _all(theirs, wanted)
    for tolerance in PARADIGMS:
        found = [call(WINDOW, tolerance) for call in calls]
        rows.append({"side": "ParaDiGMS (diffusers)", "tolerance": tolerance, "n": N})
        rows[-1] |= _mean(found) | _all([one[0] for one in found], theirs)
    for name in OURS:
        for tolerance in TOLERANCES:
            executor = f"{name}(window={WINDOW}, tolerance={tolerance})"
            found = [_ours(executor, program, denoiser, noise) for noise in noises]
            rows.append({"side": f"hasten {name}", "tolerance": tolerance, "n": N})
            rows[-1] |= _mean(found) | _all([one[0] for one in found], wanted)
    return [{"program": f"tiny SD, DDIM-{STEPS}, window {WINDOW}", **row} for row in rows]


def _ddim(scheduler: Any) -> Program:
    """DDIM at the levels of their scheduler, after ``set_timesteps``."""
    scheduler.set_timesteps(STEPS)
    schedule = Discrete(alphas_cumprod=tuple(scheduler.alphas_cumprod.double().tolist()))
    places = [*scheduler.timesteps.tolist(), schedule.clean]
    return trace(DDIM(), [schedule.at(place) for place in places])


def _ours(
    executor: str, program: Program, denoiser: Prompted, noise: torch.Tensor
) -> tuple[torch.Tensor, int, int]:
    counted = Counted(denoiser)
    session = Session(counted, no_noise)
    got = executors.parse(executor).run(program, {"x": noise}, session)
    return got, counted.calls, counted.rows


def no_noise(*_: Any) -> torch.Tensor:
    raise AssertionError("DDIM draws no noise")


def _mean(found: list[tuple[torch.Tensor, int, int]]) -> dict[str, Any]:
    rounds = [one[1] for one in found]
    evaluations = sum(one[2] for one in found) / len(found)
    return {
        "rounds": sum(rounds) / len(rounds),
        "most_rounds": max(rounds),
        "evaluations": evaluations,
    }


def _all(got: list[torch.Tensor], wanted: list[torch.Tensor]) -> dict[str, float]:
    return error(torch.cat(got), torch.cat(wanted))


def main() -> None:
    rows = beside_paradigms()
    for row in rows:
        print(row, flush=True)
    write(
        "parallel",
        "parallel in time: rounds, evaluations of a picture, and error against the sequential run "
        "(root mean square, all pictures and the worst); clock at batch 1",
        [*on_mnist(), *rows],
    )


if __name__ == "__main__":
    main()
