"""Every scheduler diffusers exports: how it is swept, or why it is not."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterable, Mapping
from typing import Any

import diffusers.schedulers
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from diffusers.utils.import_utils import DummyObject

NOISE = {
    "num_train_timesteps": 1000,
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "beta_schedule": "linear",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """One scheduler with its options.

    Attributes:
        name: as tables show it.
        scheduler: name of the class in ``diffusers.schedulers``.
        options: of its constructor, over :data:`NOISE`.
        distilled: the scheduler is meant for distilled networks, which this one is not.
    """

    name: str
    scheduler: str
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict, hash=False)
    distilled: bool = False

    def make(self) -> Any:
        """A new scheduler."""
        return getattr(diffusers.schedulers, self.scheduler)(**NOISE, **self.options)


def no_noise(t: float) -> float:
    """SA-Solver's tau for the ODE."""
    return 0.0


def spaced(
    name: str, scheduler: str, default: str = "linspace", **options: Any
) -> Iterable[Config]:
    """The spacings: "trailing", "leading", and the class's own ``default``."""
    for spacing in dict.fromkeys(("trailing", "leading", default)):
        yield one(f"{name} {spacing}", scheduler, timestep_spacing=spacing, **options)


def sigmas(name: str, scheduler: str, *kinds: str, **options: Any) -> Iterable[Config]:
    """Schedules over the whole range of sigmas, which replace the spacing."""
    keys = {"lu": "use_lu_lambdas"}
    for kind in kinds:
        key = keys.get(kind, f"use_{kind}_sigmas")
        yield Config(name=f"{name} {kind}", scheduler=scheduler, options={key: True, **options})


def one(name: str, scheduler: str, **options: Any) -> Config:
    return Config(name=name, scheduler=scheduler, options=options)


TRAILING: dict[str, Any] = {"timestep_spacing": "trailing"}
CLIPPED: dict[str, Any] = {"thresholding": True, "sample_max_value": 1.0}  # x0 to [-1, 1]
MINIMUM: dict[str, Any] = {"final_sigmas_type": "sigma_min"}
DDPM, DDIM, PNDM = "DDPMScheduler", "DDIMScheduler", "PNDMScheduler"
DPM, SINGLE = "DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler"
UNIPC, DEIS, SA = "UniPCMultistepScheduler", "DEISMultistepScheduler", "SASolverScheduler"
SIGMA = (  # the k-diffusion family, in sigmas
    ("Euler", "EulerDiscreteScheduler"),
    ("LMS", "LMSDiscreteScheduler"),
    ("Heun", "HeunDiscreteScheduler"),
    ("KDPM2", "KDPM2DiscreteScheduler"),
    ("KDPM2 ancestral", "KDPM2AncestralDiscreteScheduler"),
)


def _configs() -> Iterable[Config]:
    zero = {"final_sigmas_type": "zero"}
    for order in (2, 3):
        own: dict[str, Any] = {"solver_order": order}
        for name, scheduler, options in (
            (f"UniPC {order}", UNIPC, own | zero),
            (f"DPM++ {order}M", DPM, own | zero),
            (f"DEIS {order}", DEIS, own),
        ):
            yield from spaced(name, scheduler, **options)
            yield from sigmas(name, scheduler, "karras", **options)
            yield from spaced(f"{name} clipped", scheduler, "leading", **options, **CLIPPED)
        # bh1 divides by the log-SNR of the end, which "zero" makes infinite.
        yield one(f"UniPC {order} bh1", UNIPC, **own, **TRAILING, solver_type="bh1", **MINIMUM)
        yield from sigmas(f"DPM++ {order}M", DPM, "lu", **own, **zero)
        single = own | zero | {"lower_order_final": True}
        yield one(f"DPM++ {order}S", SINGLE, **single)
        yield one(f"DPM++ {order}S clipped", SINGLE, **single, **CLIPPED)
        yield from sigmas(f"DPM++ {order}S", SINGLE, "karras", **single)
    for name, scheduler in (("UniPC 2", UNIPC), ("DPM++ 2M", DPM)):
        yield from sigmas(name, scheduler, "exponential", "beta", **zero)
    yield one("DPM++ 2M heun", DPM, solver_type="heun", **zero, **TRAILING)
    yield from _stochastic(zero)
    for name, scheduler in SIGMA:
        yield from spaced(name, scheduler)
        yield from sigmas(name, scheduler, "karras")
    yield from spaced("Heun clipped", SIGMA[2][1], "leading", clip_sample=True)
    for clip in (False, True):
        end = " clipped" if clip else ""
        options = {"clip_sample": clip}
        yield from spaced(f"DDIM{end}", DDIM, "leading", set_alpha_to_one=True, **options)
        yield from spaced(f"DDPM{end}", DDPM, "leading", **options)
    plms = {"skip_prk_steps": True, "set_alpha_to_one": True}
    yield from spaced("PNDM (PLMS)", PNDM, "leading", **plms)
    # Its Runge-Kutta steps ask between the levels, above the last one with other spacings.
    yield one("PNDM leading", PNDM, set_alpha_to_one=True, timestep_spacing="leading")
    yield Config(name="LCM", scheduler="LCMScheduler", distilled=True)
    yield Config(name="TCD", scheduler="TCDScheduler", distilled=True)


def _stochastic(zero: dict[str, Any]) -> Iterable[Config]:
    for order in (2, 3):
        sde = zero | {"algorithm_type": "sde-dpmsolver++", "solver_order": order}
        name = f"DPM++ {order}M SDE"
        yield from spaced(name, DPM, **sde)
        yield from spaced(f"{name} clipped", DPM, "leading", **sde, **CLIPPED)
        yield from sigmas(name, DPM, "karras", "lu", **sde)
    orders = {"predictor_order": 3, "corrector_order": 4}  # the paper's, 2309.05019
    yield from spaced("SA-Solver 3/4", SA, "leading", **orders)
    yield from spaced("SA-Solver clipped", SA, "leading", **CLIPPED)
    yield from spaced("SA-Solver 3/4 clipped", SA, "leading", **orders, **CLIPPED)
    yield from spaced("SA-Solver", SA)
    yield from sigmas("SA-Solver", SA, "karras")
    yield from spaced("SA-Solver without noise", SA, "leading", tau_func=no_noise)
    yield from spaced("Euler ancestral", "EulerAncestralDiscreteScheduler")
    yield one("DPM SDE trailing", "DPMSolverSDEScheduler", **TRAILING)
    yield from sigmas("DPM SDE", "DPMSolverSDEScheduler", "karras")


CONFIGS = list(_configs())

FLOW = "for flow-matching networks, not for predictions of the noise"
TOKENS = "for networks on discrete tokens"
EDM = "for networks with EDM's preconditioning, asked at log(sigma) / 4"
BACK = "goes from a picture to noise"
REASONS = {
    "AmusedScheduler": TOKENS,
    "BlockRefinementScheduler": TOKENS,
    "CMStochasticIterativeScheduler": "for consistency models, with EDM's preconditioning",
    "CogVideoXDDIMScheduler": "DDIMScheduler's mathematics once snr_shift_scale is 1",
    "CogVideoXDPMScheduler": "its step needs the last x0 and time, which a plain loop has not",
    "ConsistencyDecoderScheduler": "for a consistency decoder of latents",
    "CosineDPMSolverMultistepScheduler": EDM,
    "DDIMInverseScheduler": BACK,
    "DDIMParallelScheduler": "DDIMScheduler's mathematics",
    "DDPMParallelScheduler": "DDPMScheduler's mathematics",
    "DDPMWuerstchenScheduler": "for Würstchen's continuous cosine schedule",
    "DPMSolverMultistepInverseScheduler": BACK,
    "DiscreteDDIMScheduler": TOKENS,
    "EDMDPMSolverMultistepScheduler": EDM,
    "EDMEulerScheduler": EDM,
    "EntropyBoundScheduler": TOKENS,
    "FlowMapEulerDiscreteScheduler": FLOW,
    "FlowMatchEulerDiscreteScheduler": FLOW,
    "FlowMatchHeunDiscreteScheduler": FLOW,
    "FlowMatchLCMScheduler": FLOW,
    "HeliosDMDScheduler": FLOW,
    "HeliosScheduler": FLOW,
    "IPNDMScheduler": "for v-predictions on its own sine schedule; takes no betas",
    "KarrasVeScheduler": "for variance-exploding networks; no step() of the plain loop",
    "LTXEulerAncestralRFScheduler": FLOW,
    "MiniMaxH3Scheduler": FLOW,
    "PiflowScheduler": FLOW,
    "RFD4ProteinaScheduler": "for flow-matching networks of protein backbones",
    "RePaintScheduler": "fills in masked pictures; needs a picture and a mask",
    "SCMScheduler": "for TrigFlow networks",
    "ScoreSdeVeScheduler": "for variance-exploding score networks; has no step()",
    "ScoreSdeVpScheduler": "for score networks in continuous time; has no step()",
    "UnCLIPScheduler": "takes the cosine betas alone",
    "VQDiffusionScheduler": TOKENS,
}


def exported() -> list[str]:
    """Names of all scheduler classes of ``diffusers.schedulers``, installed or not."""
    found = []
    for name in dir(diffusers.schedulers):
        kind = getattr(diffusers.schedulers, name)
        missing = isinstance(kind, DummyObject) and name.endswith("Scheduler")
        real = inspect.isclass(kind) and issubclass(kind, SchedulerMixin)
        if missing or (real and kind is not SchedulerMixin):
            found.append(name)
    return found


def skipped() -> dict[str, str]:
    """Why, for every exported scheduler that is not swept."""
    swept = {config.scheduler for config in available()}
    absent = {config.scheduler for config in CONFIGS} - swept
    return {
        name: _needs(name) if name in absent else REASONS.get(name, "unknown to this benchmark")
        for name in exported()
        if name not in swept
    }


def available() -> list[Config]:
    """The configurations whose packages are installed."""
    kinds = {config: getattr(diffusers.schedulers, config.scheduler) for config in CONFIGS}
    return [config for config, kind in kinds.items() if not isinstance(kind, DummyObject)]


def _needs(name: str) -> str:
    backends = getattr(diffusers.schedulers, name)._backends
    return f"needs {' and '.join(backends)}, of which one is not installed"
