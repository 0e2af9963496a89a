"""A plan as a sampling function of k-diffusion: ``sample(model, x, sigmas, extra_args, ...)``."""

from __future__ import annotations

import bisect
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import torch
from tqdm import tqdm

import hasten
from hasten.core.errors import UserError, require
from hasten.core.level import Level
from hasten.core.plan import Plan
from hasten.core.program import Program
from hasten.core.solver import trace

from .levels import Levels

CFG = 1e-3  # how far ComfyUI's guidance may be from the plan's
SEEDS = 1 << 63
INTERVAL = "hasten_guidance_interval"  # where a patched model keeps its interval


def read_plan(text: str) -> Plan:
    """The plan that ``text`` is or names.

    Raises:
        UserError: it is none, or what it sets is not at work in ComfyUI.
    """
    plan = Plan.read(" ".join(text.split()))
    require(
        plan.executor == "sequential" and plan.start in (None, "noise"),
        f"ComfyUI takes one step after another from noise, and the plan has executor "
        f"{plan.executor!r} and start {plan.start!r}; drop them.",
    )
    require(
        plan.engine == "eager" and plan.dtype == "float32",
        f"ComfyUI runs the network itself, and the plan has engine {plan.engine!r} and dtype "
        f"{plan.dtype!r}; drop them.",
    )
    require(
        not plan.levers,
        f"levers change networks of diffusers, and ComfyUI has its own; drop "
        f"{', '.join(plan.levers)}.",
    )
    require(
        plan.program is None or plan.other_weights,
        "a learned program is tied to weights that ComfyUI does not tell; where it was learned for "
        "this model, set other_weights=true.",
    )
    require(
        plan.parts.solver.traceable,
        f"solver {plan.solver!r} chooses its own steps, and ComfyUI wants them beforehand; write "
        "a plan of fixed steps with `hasten learn freeze`.",
    )
    return plan


@dataclasses.dataclass(frozen=True)
class PlanSampler:
    """Samples by ``plan`` a model with these ``levels``."""

    plan: Plan
    levels: Levels

    def sigmas(self) -> torch.Tensor:
        """The levels of the plan as ComfyUI has them, (steps + 1,), the last one 0."""
        levels = self.plan.levels(self.levels.schedule)
        if self.plan.program is not None:
            levels = (*self._own().levels, levels[-1])
        return torch.tensor([self.levels.sigma(level) for level in levels])

    def __call__(
        self,
        model: Callable[..., torch.Tensor],
        x: torch.Tensor,
        sigmas: torch.Tensor,
        extra_args: Mapping[str, Any] | None = None,
        callback: Callable[[dict[str, Any]], None] | None = None,
        disable: bool | None = None,
    ) -> torch.Tensor:
        """x at the last of ``sigmas``.

        Args:
            model: ``model(x, sigma, **extra_args)`` gives x0, sigma (n,).
            x: noised to the first of ``sigmas``, as ComfyUI does it.
            callback: called once a step, as k-diffusion does it.
        """
        extra = dict(extra_args or {})
        self._require_guidance(model)
        if len(sigmas) < 2:
            return x
        program = self.program(sigmas)
        first, steps = program.start, [-float(sigma) for sigma in sigmas[:-1]]
        done = 0
        with tqdm(total=len(steps), disable=disable) as bar:

            def denoise(latents: torch.Tensor, level: Level) -> torch.Tensor:
                nonlocal done
                sigma, seen = self.levels.sigma(level), latents * self.levels.factor(level)
                x0 = model(seen.to(x.dtype), x.new_full((len(x),), sigma), **extra)
                step = bisect.bisect_right(steps, -sigma * (1 - 1e-5))
                if step > done:
                    bar.update(step - done)
                    done = step
                    if callback is not None:
                        here = sigmas[step - 1]
                        said = {"x": seen, "i": step - 1, "sigma": here, "sigma_hat": here}
                        callback({**said, "denoised": x0})
                return x0.float()

            noise = x.float() / (self.levels.factor(first) * first.spread)
            seed = int(extra.get("seed") or 0) % SEEDS
            latents = hasten.run(program, denoise, noise, seed=seed)
        return (latents * self.levels.factor(self._last(sigmas))).to(x.dtype)

    def program(self, sigmas: torch.Tensor) -> Program:
        """The plan's Program, or its solver on other ``sigmas``: a part of the plan's, or those of
        another scheduler.

        Raises:
            UserError: a learned program, which has its own.
        """
        own = self.sigmas()
        given = sigmas.detach().float().cpu()
        if own.shape == given.shape and torch.allclose(own, given, rtol=1e-4, atol=1e-6):
            return self._own()
        if self.plan.program is not None:
            raise UserError(
                "a learned program has its own sigmas; connect the SIGMAS of this node, whole."
            )
        levels = tuple(self.levels.level(float(sigma)) for sigma in given)
        return trace(self.plan.parts.solver, levels)

    def _own(self) -> Program:
        return self.plan.trace(self.levels.schedule)

    def _last(self, sigmas: torch.Tensor) -> Level:
        return self.levels.level(float(sigmas[-1]))

    def _require_guidance(self, model: Any) -> None:
        """Refuse a guider that guides otherwise than the plan says, where both say it."""
        scale = getattr(getattr(model, "inner_model", None), "cfg", None)
        require(
            self.plan.guidance == 1.0 or scale is None or abs(scale - self.plan.guidance) < CFG,
            f"the plan has guidance {self.plan.guidance:g}, and ComfyUI's cfg is {scale}; set cfg "
            "to it, or drop guidance.",
        )
