"""ProgramScheduler: stock pipelines give what hasten's own executor gives for the same Program."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers.utils.torch_utils import randn_tensor
from transformers import CLIPTextConfig, CLIPTextModel

from hasten.adapters.scheduler import ProgramScheduler
from hasten.core.call import Answer, Call
from hasten.core.denoiser import FunctionDenoiser
from hasten.core.errors import UserError
from hasten.core.level import Level
from hasten.core.noise_schedule import NoiseSchedule as Noising
from hasten.core.noise_schedule import schedule as as_path
from hasten.core.prediction import prediction as as_prediction
from hasten.core.program import Program
from hasten.core.session import Session
from hasten.core.solver import Clipped, solvers, trace
from hasten.executors.sequential import Sequential

torch.set_num_threads(1)  # tiny networks: threads cost more than they give

# float32, a few network calls: rounding only, and the two sides add in the same order.
CLOSE = 1e-4
DETERMINISTIC = ["ddim", "dpmpp(order=2)", "dpmpp(order=3)", "heun", "unipc", "deis", "ipndm"]
STOCHASTIC = ["ddpm", "ddim(eta=1.0)", "dpmpp-sde", "restart(low=0.5, high=3.0)"]
Network = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def levels(schedule: Noising, steps: int, top: float | None = None) -> list[Level]:
    top = schedule.noisy if top is None else top
    places = [schedule.low + (top - schedule.low) * (1 - k / steps) for k in range(steps)]
    return [schedule.at(place) for place in (*places, schedule.clean)]


def program_of(solver: str, schedule: str = "ddpm", steps: int = 4, **where: Any) -> Program:
    return trace(solvers.parse(solver), levels(as_path(schedule), steps, **where))


@torch.no_grad()
def own(
    program: Program,
    net: Network,
    start: torch.Tensor,
    prediction: str = "epsilon",
    generator: Any = None,
) -> torch.Tensor:
    """What the sequential executor makes of ``start``, with noise from the same generator."""

    def denoise(x: torch.Tensor, level: Level) -> torch.Tensor:
        here = as_prediction(prediction).at(level)
        answer = net(x * here.scale, torch.tensor(level.t, dtype=torch.float32))
        return here.skip * x + here.out * answer

    noise = lambda: randn_tensor(tuple(start.shape), generator, dtype=start.dtype)  # noqa: E731
    session = Session(FunctionDenoiser(denoise), noise)
    return Sequential().run(program, {"x": start}, session)


def furthest(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).abs().max())


# --- pixels -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def unet() -> Any:
    torch.manual_seed(0)
    net = diffusers.UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        norm_num_groups=4,
    )
    return net.eval().requires_grad_(False)


def pixels(kind: Any, unet: Any, scheduler: Any) -> Any:
    pipe = kind(unet, diffusers.DDIMScheduler())
    pipe.scheduler = scheduler
    pipe.set_progress_bar_config(disable=True)
    return pipe


def call(unet: Any) -> Network:
    return lambda x, t: unet(x, t).sample


@pytest.mark.parametrize("solver", DETERMINISTIC + STOCHASTIC)
def test_ddim_pipeline_gives_what_sequential_gives(unet: Any, solver: str):
    program = program_of(solver)
    pipe = pixels(diffusers.DDIMPipeline, unet, ProgramScheduler(program, prediction="v"))
    n, seed = program.evaluations, torch.Generator
    got = pipe(2, seed().manual_seed(3), num_inference_steps=n, output_type="pt").images
    again = seed().manual_seed(3)
    start = randn_tensor((2, 1, 8, 8), again) * program.start.spread
    wanted = own(program, call(unet), start, "v", again) / 2 + 0.5
    assert furthest(got, wanted.clamp(0, 1)) <= CLOSE
    inside = ((wanted > 0) & (wanted < 1)).float().mean()
    assert inside > 0.3, "the pipeline's clamp must not hide what is compared"


def test_a_list_of_generators_gives_every_picture_its_own_noise(unet: Any):
    program = program_of("ddpm")
    pipe = pixels(diffusers.DDPMPipeline, unet, ProgramScheduler(program, prediction="v"))
    seeds = lambda *numbers: [torch.Generator().manual_seed(k) for k in numbers]  # noqa: E731
    both = pipe(2, seeds(1, 2), program.evaluations, output_type="np").images
    alone = pipe(1, seeds(2), program.evaluations, output_type="np").images
    assert np.abs(both[1] - alone[0]).max() <= CLOSE


def test_clipping_inside_the_program_runs(unet: Any):
    program = trace(Clipped(solver=solvers.parse("ddim")), levels(as_path("ddpm"), 4))
    scheduler = ProgramScheduler(program, prediction="epsilon")
    start = torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    assert furthest(loop(scheduler, unet, start), own(program, call(unet), start)) <= CLOSE


def loop(scheduler: Any, net: Any, x: torch.Tensor, dtype: torch.dtype = torch.float32) -> Any:
    """The loop that every pipeline has, over a network in float32."""
    x = x.to(dtype)
    with torch.no_grad():
        for t in scheduler.timesteps:
            asked = scheduler.scale_model_input(x, t)
            x = scheduler.step(net(asked.float(), t).sample, t, x).prev_sample
    return x


@pytest.mark.parametrize("solver", ["heun", "dpmpp(order=2)"])
def test_an_edm_network_is_asked_about_the_scaled_input(unet: Any, solver: str):
    program = program_of(solver, "edm(sigma_max=10.0)", top=10.0)
    scheduler = ProgramScheduler(program, prediction="edm(sigma_data=0.3)")
    noise = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    start = noise * scheduler.init_noise_sigma
    assert scheduler.init_noise_sigma == pytest.approx(np.hypot(1, 10))
    wanted = own(program, call(unet), start, "edm(sigma_data=0.3)")
    assert furthest(loop(scheduler, unet, start), wanted) <= CLOSE * 10


def test_an_edm_network_in_a_pipeline_that_does_not_scale_is_refused(unet: Any):
    program = program_of("ddim", "edm(sigma_max=10.0)")
    scheduler = ProgramScheduler(program, prediction="edm")
    pipe = pixels(diffusers.DDIMPipeline, unet, scheduler)
    with pytest.raises(UserError, match="scale_model_input"):
        pipe(num_inference_steps=4)
    scheduler.set_timesteps()
    x, t = torch.ones(1, 1, 8, 8), scheduler.timesteps[0]
    scaled = scheduler.scale_model_input(x, t)
    with pytest.raises(UserError, match="before that"):
        scheduler.step(scaled, t, scaled)


def test_a_start_that_the_pipeline_does_not_scale_is_refused(unet: Any):
    program = program_of("ddim", "edm(sigma_max=10.0)")
    pipe = pixels(diffusers.DDIMPipeline, unet, ProgramScheduler(program, prediction="epsilon"))
    with pytest.raises(UserError, match="init_noise_sigma"):
        pipe(num_inference_steps=4)


def test_a_learned_variance_scatters_the_noise():
    program = program_of("ddpm(variance='learned')")
    scheduler = ProgramScheduler(program, prediction="v")
    source = torch.Generator().manual_seed(0)
    start = torch.randn(2, 1, 8, 8, generator=source)
    raw = torch.randn(2, 2, 8, 8, generator=source)

    def learned(calls: list[Call]) -> list[Answer]:
        (asked,) = calls
        here = as_prediction("v").at(asked.levels[0])
        x0 = here.skip * asked.x + here.out * raw[:, :1]
        return [Answer(x0=x0, variance=raw[:, 1:])]

    mine, theirs = torch.Generator().manual_seed(5), torch.Generator().manual_seed(5)
    noise = lambda: randn_tensor((2, 1, 8, 8), mine)  # noqa: E731
    wanted = Sequential().run(program, {"x": start}, Session(learned, noise))
    x = start
    for t in scheduler.timesteps:
        x = scheduler.step(raw, t, x, generator=theirs, return_dict=False)[0]
    assert furthest(x, wanted) <= CLOSE
    scheduler.set_timesteps()
    with pytest.raises(UserError, match="variance"):
        scheduler.step(raw[:, :1], scheduler.timesteps[0], start)


def test_a_learned_variance_that_the_program_does_not_read_is_dropped():
    scheduler = ProgramScheduler(program_of("ddim"), prediction="epsilon")
    x, raw = torch.randn(2, 1, 8, 8), torch.randn(2, 2, 8, 8)
    t = scheduler.timesteps[0]
    both = scheduler.step(raw, t, x).prev_sample
    scheduler.set_timesteps()
    assert torch.equal(scheduler.step(raw[:, :1], t, x).prev_sample, both)


def test_the_state_stays_float32_between_half_precision_steps(unet: Any):
    program = program_of("dpmpp(order=2)", steps=8)
    start = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0)).bfloat16()
    got = loop(ProgramScheduler(program, prediction="epsilon"), unet, start, torch.bfloat16)
    assert got.dtype == torch.bfloat16
    net = lambda x, t: unet(x.bfloat16().float(), t).sample  # noqa: E731
    wanted = own(program, net, start.float())
    # The answers are those of a rounded input on both sides; only the last rounding is left.
    assert furthest(got.float(), wanted) <= 2**-8 * float(wanted.abs().max())


def test_a_latent_changed_between_steps_is_used_as_changed():
    scheduler = ProgramScheduler(program_of("ddim"), prediction="epsilon")
    x, t = torch.randn(1, 1, 4, 4).bfloat16(), scheduler.timesteps
    x = scheduler.step(torch.zeros_like(x), t[0], x).prev_sample
    changed = scheduler.step(torch.zeros_like(x), t[1], x + 1).prev_sample
    level, after = scheduler.program.levels[1:3]
    wanted = (x + 1).float() * after.alpha / level.alpha
    assert furthest(changed.float(), wanted) <= 2**-8 * float(wanted.abs().max())


# --- latent pictures and text ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def vae() -> Any:
    torch.manual_seed(0)
    return diffusers.AutoencoderKL(
        block_out_channels=(4, 4),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=2,
    ).eval()


@pytest.fixture(scope="module")
def words() -> torch.Tensor:
    """Embeddings (2, 5, 16) of two prompts by a real text encoder: the empty and the wanted one."""
    torch.manual_seed(0)
    config = CLIPTextConfig(
        vocab_size=20,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=8,
        pad_token_id=1,
        bos_token_id=0,
        eos_token_id=2,
    )
    with torch.no_grad():
        return CLIPTextModel(config).eval()(torch.tensor([[0, 2, 1, 1, 1], [0, 9, 7, 5, 2]]))[0]


@pytest.fixture(scope="module")
def painter(vae: Any) -> Any:
    torch.manual_seed(1)
    net = diffusers.UNet2DConditionModel(
        sample_size=4,
        block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        norm_num_groups=4,
        cross_attention_dim=16,
        attention_head_dim=2,
    ).eval()
    return diffusers.StableDiffusionPipeline(
        vae, None, None, net, diffusers.PNDMScheduler(), None, None, requires_safety_checker=False
    )


def paint(pipe: Any, words: torch.Tensor, program: Program, **options: Any) -> torch.Tensor:
    pipe.set_progress_bar_config(disable=True)
    body = {"num_inference_steps": program.evaluations, "guidance_scale": 5.0}
    body |= {"prompt_embeds": words[1:], "negative_prompt_embeds": words[:1]}
    with torch.no_grad():
        return pipe(**(body | options), output_type="latent").images


def guided(pipe: Any, words: torch.Tensor) -> Network:
    def net(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        answer = pipe.unet(torch.cat([x, x]), t, encoder_hidden_states=words).sample
        null, wanted = answer.chunk(2)
        return null + 5.0 * (wanted - null)

    return net


@pytest.mark.parametrize("solver", ["ddim", "dpmpp(order=2)", "heun", "unipc", "ddpm", "dpmpp-sde"])
def test_stable_diffusion_gives_what_sequential_gives(painter: Any, words: Any, solver: str):
    program = program_of(solver)
    painter.scheduler = ProgramScheduler(program, prediction="v")
    latents = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    source = torch.Generator().manual_seed(7)
    got = paint(painter, words, program, latents=latents, generator=source)
    again = torch.Generator().manual_seed(7)
    start = latents * program.start.spread
    wanted = own(program, guided(painter, words), start, "v", again)
    assert furthest(got, wanted) <= CLOSE


def test_an_aborted_run_leaves_nothing_behind(painter: Any, words: Any):
    program = program_of("dpmpp(order=3)")
    painter.scheduler = ProgramScheduler(program, prediction="epsilon")
    latents = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    wanted = paint(painter, words, program, latents=latents)

    def stop(pipe: Any, step: int, t: Any, given: Any) -> Any:
        if step == 1:
            raise KeyboardInterrupt
        return given

    with pytest.raises(KeyboardInterrupt):
        paint(painter, words, program, latents=latents + 1, callback_on_step_end=stop)
    assert torch.equal(paint(painter, words, program, latents=latents), wanted)


def test_the_wrong_number_of_steps_says_the_right_one(painter: Any, words: Any):
    program = program_of("heun")
    painter.scheduler = ProgramScheduler(program, prediction="epsilon")
    for options in ({"num_inference_steps": 4}, {"num_inference_steps": 50}):
        with pytest.raises(UserError, match="num_inference_steps=7"):
            paint(painter, words, program, **options)


def test_levels_of_the_callers_own_are_refused(painter: Any, words: Any):
    program = program_of("ddim")
    painter.scheduler = scheduler = ProgramScheduler(program, prediction="epsilon")
    with pytest.raises(UserError, match="timesteps"):
        paint(painter, words, program, timesteps=[999, 500, 200, 1])
    with pytest.raises(UserError, match="sigmas"):
        paint(painter, words, program, sigmas=[9.0, 5.0, 2.0, 0.1])
    with pytest.raises(UserError, match="eta"):
        paint(painter, words, program, eta=0.5)
    latents = torch.randn(1, 4, 4, 4)
    wanted = paint(painter, words, program, latents=latents)
    same = [level.t for level in program.levels]
    assert torch.equal(paint(painter, words, program, timesteps=same, latents=latents), wanted)
    sigmas = scheduler.sigmas.tolist()
    assert torch.equal(paint(painter, words, program, sigmas=sigmas, latents=latents), wanted)


def test_image_to_image_starts_at_a_later_step(painter: Any, words: Any):
    pipe = diffusers.StableDiffusionImg2ImgPipeline(
        **painter.components, requires_safety_checker=False
    )
    program = program_of("ddim")
    pipe.scheduler = ProgramScheduler(program, prediction="epsilon")
    image = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    source = torch.Generator().manual_seed(7)
    got = paint(pipe, words, program, image=image, strength=0.5, generator=source)
    level, again = program.levels[2], torch.Generator().manual_seed(7)
    start = level.alpha * image + level.sigma * randn_tensor((1, 4, 4, 4), again)
    rest = trace(solvers.parse("ddim"), levels(as_path("ddpm"), 4)[2:])
    assert furthest(got, own(rest, guided(pipe, words), start)) <= CLOSE


def test_a_later_start_is_refused_where_a_solver_remembers(painter: Any, words: Any):
    pipe = diffusers.StableDiffusionImg2ImgPipeline(
        **painter.components, requires_safety_checker=False
    )
    for solver in ("dpmpp(order=2)", "unipc"):
        program = program_of(solver)
        pipe.scheduler = ProgramScheduler(program, prediction="epsilon")
        with pytest.raises(UserError, match="cannot start at step"):
            paint(pipe, words, program, image=torch.randn(1, 4, 4, 4), strength=0.5)


# --- flow ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def flux() -> Any:
    torch.manual_seed(2)
    net = diffusers.FluxTransformer2DModel(
        in_channels=4,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=16,
        pooled_projection_dim=16,
        axes_dims_rope=(4, 4, 8),
    ).eval()
    vae = diffusers.AutoencoderKL(
        block_out_channels=(4,), latent_channels=1, norm_num_groups=2, shift_factor=0.0
    ).eval()
    stock = diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    return diffusers.FluxPipeline(stock, vae, None, None, None, None, net)


def flow_options(program: Program, words: torch.Tensor) -> dict[str, Any]:
    return {
        "prompt_embeds": words[1:],
        "pooled_prompt_embeds": words[1:, 0],
        "num_inference_steps": program.evaluations,
        "height": 16,
        "width": 16,
        "output_type": "latent",
    }


def flow_net(pipe: Any, words: torch.Tensor, side: int) -> Network:
    places = torch.zeros(side, side, 3)
    places[..., 1] += torch.arange(side)[:, None]
    places[..., 2] += torch.arange(side)[None, :]

    def net(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return pipe.transformer(
            hidden_states=x,
            timestep=t.expand(len(x)) / 1000,
            pooled_projections=words[1:, 0],
            encoder_hidden_states=words[1:],
            txt_ids=torch.zeros(words.shape[1], 3),
            img_ids=places.reshape(-1, 3),
        ).sample

    return net


@pytest.mark.parametrize("solver", ["euler", "dpmpp(order=2)", "heun"])
@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_flux_gives_what_sequential_gives(flux: Any, words: Any, solver: str, shift: float):
    program = program_of(solver, f"flow(shift={shift})")
    flux.scheduler = ProgramScheduler(program, prediction="flow")
    flux.set_progress_bar_config(disable=True)
    side = 16 // (2 * flux.vae_scale_factor)
    latents = torch.randn(1, side**2, 4, generator=torch.Generator().manual_seed(0))
    got = flux(**flow_options(program, words), latents=latents).images
    wanted = own(program, flow_net(flux, words, side), latents, "flow")
    assert furthest(got, wanted) <= CLOSE


def test_flux_own_sigmas_mean_no_choice_and_others_are_refused(flux: Any, words: Any):
    program = program_of("euler", "flow(shift=3.0)")
    flux.scheduler = ProgramScheduler(program, prediction="flow")
    flux.set_progress_bar_config(disable=True)
    with pytest.raises(UserError, match=r"sigmas has 4 values that are not this program's"):
        flux(**flow_options(program, words), sigmas=[1.0, 0.9, 0.3, 0.1])
    with pytest.raises(UserError, match="sigmas has 7 values"):
        flux(**(flow_options(program, words) | {"num_inference_steps": 7}))
    wanted = [level.sigma for level in program.levels]
    flux(**flow_options(program, words), sigmas=wanted)
    assert flux.scheduler.sigmas.tolist()[:-1] == pytest.approx(wanted)


def test_flow_noise_is_added_along_the_straight_line():
    scheduler = ProgramScheduler(program_of("euler", "flow"), prediction="flow")
    x, noise = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    t = scheduler.timesteps[[1, 2]]
    sigma = (t / 1000).reshape(2, 1, 1)
    assert furthest(scheduler.scale_noise(x, t, noise), (1 - sigma) * x + sigma * noise) < 1e-6
    one = scheduler.scale_noise(x, t[:1], noise)
    assert furthest(one, (1 - sigma[:1]) * x + sigma[:1] * noise) < 1e-6


# --- the scheduler by itself --------------------------------------------------------------------


def test_the_config_survives_json_save_and_from_config(tmp_path: Path, unet: Any):
    program = program_of("dpmpp(order=2)")
    first = ProgramScheduler(program, prediction="edm(sigma_data=0.3)", num_train_timesteps=500)
    json.dumps(dict(first.config))
    first.save_pretrained(str(tmp_path))
    copies = [
        ProgramScheduler.from_pretrained(str(tmp_path)),
        ProgramScheduler.from_config(first.config),
        ProgramScheduler(program.to_json(), prediction="edm(sigma_data=0.3)"),
        copy.deepcopy(first),
    ]
    for other in copies:
        assert other.program == program
        assert other.prediction == first.prediction
        assert torch.equal(other.timesteps, first.timesteps)
    assert len(copies[0]) == 500


def test_the_config_of_another_scheduler_is_refused():
    with pytest.raises(UserError, match="has no program"):
        ProgramScheduler.from_config(diffusers.DDIMScheduler().config)


def test_programs_that_a_pipeline_cannot_run_are_refused():
    from hasten.core.lower import lower

    program = program_of("ddim")
    with pytest.raises(UserError, match="lowered"):
        ProgramScheduler(lower(program, as_prediction("epsilon")), prediction="epsilon")
    with pytest.raises(UserError, match="signal"):
        ProgramScheduler(program_of("ddim", "flow"), prediction="epsilon")
    with pytest.raises(UserError, match="not about its start"):
        ProgramScheduler(
            program_of("euler(churn=10.0)", "edm(sigma_max=10.0)"), prediction="epsilon"
        )


def test_steps_out_of_turn_are_refused():
    scheduler = ProgramScheduler(program_of("ddim"), prediction="epsilon")
    x, t = torch.zeros(1, 1, 4, 4), scheduler.timesteps
    with pytest.raises(UserError, match="none of this program's"):
        scheduler.step(x, 123.4, x)
    scheduler.step(x, t[0], x)
    assert scheduler.step_index == 1
    with pytest.raises(UserError, match="in order"):
        scheduler.step(x, t[3], x)
    for k in range(1, 4):
        scheduler.step(x, float(t[k]), x)
    with pytest.raises(UserError, match="at its end"):
        scheduler.step(x, t[3], x)
    scheduler.set_begin_index(2)
    with pytest.raises(UserError, match="in order"):
        scheduler.step(x, t[0], x)
    with pytest.raises(UserError, match="begin_index"):
        scheduler.set_begin_index(4)
    with pytest.raises(UserError, match="none of this program's"):
        scheduler.add_noise(x, x, torch.tensor([3.3]))


def test_times_are_floats_and_repeat_where_a_solver_evaluates_twice():
    program = program_of("heun", "vp-linear", steps=3)
    scheduler = ProgramScheduler(program, prediction="epsilon")
    assert scheduler.timesteps.dtype == torch.float32
    assert len(scheduler.timesteps) == program.evaluations == 5
    assert scheduler.order == 1
    assert scheduler.sigmas[-1] == 0


def test_the_output_says_what_the_network_believed():
    scheduler = ProgramScheduler(program_of("ddim"), prediction="x0")
    x = torch.randn(1, 1, 4, 4)
    assert torch.equal(scheduler.step(x, scheduler.timesteps[0], x).pred_original_sample, x)
