"""The nodes. What belongs to ComfyUI is imported when a node runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from hasten.core.errors import UserError, require
from hasten.core.plan import Plan

from .levels import Levels
from .running import INTERVAL, PlanSampler, read_plan
from .tuning import Tuner

PLAN = ("STRING", {"multiline": True, "default": "solver=dpmpp(order=2),grid=log-snr,steps=10"})
CATEGORY = "sampling/custom_sampling/hasten"


class HastenSampler:
    """A plan as a SAMPLER and its SIGMAS, for SamplerCustom and SamplerCustomAdvanced."""

    DESCRIPTION = "The solver of a hasten plan, and the noise levels that it visits."
    RETURN_TYPES = ("SAMPLER", "SIGMAS")
    FUNCTION = "build"
    CATEGORY = CATEGORY

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"model": ("MODEL",), "plan": PLAN}}

    def build(self, model: Any, plan: str) -> tuple[Any, torch.Tensor]:
        import comfy.samplers

        chosen = read_plan(plan)
        _require_device(chosen, model)
        _require_interval(chosen, model)
        sampler = PlanSampler(chosen, Levels.of(model.get_model_object("model_sampling")))
        return comfy.samplers.KSAMPLER(sampler), sampler.sigmas()


class HastenApplyPlan:
    """A MODEL that is guided only within the plan's ``guidance_interval``."""

    DESCRIPTION = "Skips the negative prompt outside the plan's guidance_interval."
    RETURN_TYPES = ("MODEL",)
    FUNCTION = "apply"
    CATEGORY = CATEGORY

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"model": ("MODEL",), "plan": PLAN}}

    def apply(self, model: Any, plan: str) -> tuple[Any]:
        interval = read_plan(plan).guidance_interval
        if interval is None:
            raise UserError(
                "the plan has no guidance_interval, the one field that is applied to a MODEL; "
                "leave this node out, and give the plan to hasten sampler."
            )
        require(
            "sampler_calc_cond_batch_function" not in model.model_options,
            "another node decides which conditions of this MODEL are evaluated; use one of them.",
        )
        levels = Levels.of(model.get_model_object("model_sampling"))
        patched = model.clone()
        patched.set_model_sampler_calc_cond_batch_function(_within(interval, levels))
        patched.model_options[INTERVAL] = interval
        return (patched,)


class HastenTune:
    """Finds the fastest plan for a MODEL and its conditions on this device."""

    DESCRIPTION = (
        "Tries solvers, grids and numbers of steps, and keeps the fastest plan whose latents are "
        "within max_loss of the converged solution."
    )
    RETURN_TYPES = ("STRING",)
    RETURN_NAMES = ("plan",)
    FUNCTION = "tune"
    CATEGORY = CATEGORY

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        minutes = {"default": 5.0, "min": 0.1, "max": 600.0, "step": 0.1}
        loss = {"default": 0.05, "min": 0.001, "max": 1.0, "step": 0.001}
        return {
            "required": {
                "model": ("MODEL",),
                "positive": ("CONDITIONING",),
                "negative": ("CONDITIONING",),
                "latent_image": ("LATENT",),
                "cfg": ("FLOAT", {"default": 1.0, "min": 0.0, "max": 100.0, "step": 0.1}),
                "minutes": ("FLOAT", minutes),
                "max_loss": ("FLOAT", loss),
            }
        }

    def tune(
        self,
        model: Any,
        positive: Any,
        negative: Any,
        latent_image: dict[str, Any],
        cfg: float,
        minutes: float,
        max_loss: float,
    ) -> tuple[str]:
        import comfy.sample
        import comfy.samplers

        sampling = model.get_model_object("model_sampling")
        tuner = Tuner(levels=Levels.of(sampling), minutes=minutes, max_loss=max_loss)
        latent = comfy.sample.fix_empty_latent_channels(model, latent_image["samples"])[:1]
        comfy.sample.sample_custom(
            model,
            torch.zeros_like(latent),
            cfg,
            comfy.samplers.KSAMPLER(tuner),
            torch.tensor([float(sampling.sigma_max), 0.0]),
            positive,
            negative,
            torch.zeros_like(latent),
            disable_pbar=True,
            seed=0,
        )
        return (str(tuner.best),)


def _within(interval: tuple[float, float], levels: Levels) -> Callable[[dict[str, Any]], Any]:
    """Evaluates both conditions within ``interval`` of sigma / alpha, else the positive alone."""
    low, high = interval

    def evaluated(args: dict[str, Any]) -> list[torch.Tensor]:
        import comfy.samplers

        positive, negative = args["conds"]
        inside = low < levels.ratio(float(args["sigma"].max())) <= high
        rest = (args["input"], args["sigma"], args["model_options"])
        both = [positive, negative] if inside else [positive, None]
        wanted, unwanted = comfy.samplers.calc_cond_batch(args["model"], both, *rest)
        return [wanted, unwanted if inside else wanted]

    return evaluated


def _require_interval(plan: Plan, model: Any) -> None:
    applied = model.model_options.get(INTERVAL)
    require(
        plan.guidance_interval == applied,
        f"the plan has guidance_interval {plan.guidance_interval}, and this MODEL is guided within "
        f"{applied or 'all levels'}; put hasten apply plan with this plan before it.",
    )


def _require_device(plan: Plan, model: Any) -> None:
    here = torch.device(getattr(model, "load_device", "cpu")).type
    require(
        plan.device in (None, here),
        f"the plan was measured on {plan.device!r}, and the model runs on {here!r}; tune it here, "
        "or drop device.",
    )


NODE_CLASS_MAPPINGS = {
    "HastenSampler": HastenSampler,
    "HastenApplyPlan": HastenApplyPlan,
    "HastenTune": HastenTune,
}
NODE_DISPLAY_NAME_MAPPINGS = {
    "HastenSampler": "hasten sampler",
    "HastenApplyPlan": "hasten apply plan",
    "HastenTune": "hasten tune",
}
