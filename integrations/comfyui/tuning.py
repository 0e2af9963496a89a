"""Tuning within ComfyUI: a sampling function that tries plans instead of making one sample."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch

import hasten
from hasten.core.codec import Codec, Shape
from hasten.core.level import Level
from hasten.core.noise_schedule import EDM
from hasten.core.plan import Plan
from hasten.tuning.records import Finalist
from hasten.tuning.settings import TunerSettings
from hasten.tuning.space import Space
from hasten.tuning.tune import tune

from .levels import Levels

SPACE = Space(engines=(("eager", "float32"),), programs=False, students=False, noisy=(), early=())


@dataclasses.dataclass(frozen=True, kw_only=True)
class Latents(Codec):
    """Latents of about unit variance, on the scale of pixels in [0, 1], never clipped."""

    part_name = "comfyui-latents"

    def encode(self, pictures: torch.Tensor) -> torch.Tensor:
        return pictures * 2 - 1

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        return latents * 0.5 + 0.5

    def encoded_shape(self, shape: Shape) -> Shape:
        return shape

    def decoded_shape(self, shape: Shape) -> Shape:
        return shape


class Asked(torch.nn.Module):
    """ComfyUI's model as hasten calls a network: ``net(x, t)`` gives x0."""

    def __init__(self, answer: Callable[..., torch.Tensor], device: torch.device) -> None:
        super().__init__()
        self.answer = answer  # a function, so that copies share the model behind it
        self.place = torch.nn.Parameter(torch.empty(0, device=device), requires_grad=False)

    def forward(self, x: torch.Tensor, t: torch.Tensor, condition: Any = None) -> torch.Tensor:
        return self.answer(x, t)


@dataclasses.dataclass
class Tuner:
    """A sampling function of k-diffusion that leaves the best plan in ``best``, and ``why``."""

    levels: Levels
    minutes: float
    max_loss: float
    settings: TunerSettings = dataclasses.field(
        default_factory=lambda: TunerSettings(parallel_share=0.0, for_apply=True)
    )
    space: Space = SPACE
    best: Plan | None = None
    why: str = ""

    def __call__(
        self,
        model: Callable[..., torch.Tensor],
        x: torch.Tensor,
        sigmas: torch.Tensor,
        extra_args: Mapping[str, Any] | None = None,
        callback: Callable[[dict[str, Any]], None] | None = None,
        disable: bool | None = None,
    ) -> torch.Tensor:
        """``x`` as it is."""
        extra = dict(extra_args or {})

        def answer(latents: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            rows = [self._level(time) for time in t.tolist()]
            column = (len(rows), *[1] * (latents.ndim - 1))
            factors = latents.new_tensor([self.levels.factor(row) for row in rows])
            asked = latents.new_tensor([self.levels.sigma(row) for row in rows])
            seen = (latents * factors.view(column)).to(x)
            return model(seen, asked.to(x), **extra).to(latents)

        network = Asked(answer, x.device).train(False)
        known = {"schedule": self.levels.schedule, "shape": tuple(x.shape[1:])}
        loaded = hasten.load(network, prediction="x0", **known)
        tuning = tune(
            dataclasses.replace(loaded, codec=Latents()),
            minutes=self.minutes,
            max_loss=self.max_loss,
            space=self.space,
            settings=self.settings,
        )
        plain = [one for one in tuning.finalists if not one.plan.levers]
        self.best, self.why = _chosen(tuning.best, plain, self.max_loss), tuning.why
        return x

    def _level(self, time: float) -> Level:
        """The level at which hasten tells a network ``time``."""
        schedule = self.levels.schedule
        if self.levels.flow:
            return self.levels.level(time / 1000)
        return schedule.at(math.exp(4 * time) if isinstance(schedule, EDM) else time)


def _chosen(best: Plan, plain: list[Finalist], max_loss: float) -> Plan:
    """The best plan, or the fastest without levers that passes where it has some."""
    if not best.levers:
        return _bare(best)
    passing = [one for one in plain if one.rmse <= max_loss] or plain
    return _bare(min(passing, key=lambda one: one.latency.median).plan)


def _bare(plan: Plan) -> Plan:
    """``plan`` without what ComfyUI decides itself."""
    return plan.model_copy(update={"device": None})
