"""diffusers' plain loop around a network: what every scheduler is run and timed in."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.peers.schedulers import NOISE, Config
from hasten.core.model import Model
from hasten.core.noise_schedule import ddpm_schedule
from hasten.core.random_streams import generator
from hasten.sampling import START, WALK

Network = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]

SEED = 1  # as in benchmarks/plans.py: the same start noise


def loop(
    net: Network,
    scheduler: Any,
    steps: int,
    noise: torch.Tensor,
    labels: torch.Tensor,
    draws: list[torch.Generator],
) -> torch.Tensor:
    """diffusers' loop, as its pipelines have it: the last latents (n, c, h, w)."""
    takes = inspect.signature(scheduler.step).parameters
    options = {"generator": draws} if "generator" in takes else {}
    scheduler.set_timesteps(steps)
    x = noise * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        times = t.float().repeat(len(x))
        answer = net(scheduler.scale_model_input(x, t), times, labels)
        x = scheduler.step(answer, t, x, **options).prev_sample
    return x


@torch.inference_mode()
def sample(
    net: Network,
    model: Model,
    config: Config,
    steps: int,
    noise: torch.Tensor,
    labels: torch.Tensor,
    generator: list[torch.Generator],
) -> torch.Tensor:
    """Latents (n, c, h, w) of ``config`` from standard normal ``noise``; a new scheduler each call.

    Args:
        net: ``model``'s network, in any engine.
        generator: one a picture, for the noise on the way.
    """
    assert model.schedule == ddpm_schedule(), f"{model.name!r} has other betas than {NOISE}"
    return loop(net, config.make(), steps, noise, labels, generator)


def evaluations(config: Config, steps: int) -> int:
    """Network calls a picture: the plain loop makes one for each of the scheduler's times."""
    scheduler = config.make()
    scheduler.set_timesteps(steps)
    return len(scheduler.timesteps)


class Counted:
    """A network, and how often it was called."""

    def __init__(self, net: Network) -> None:
        self.net, self.calls = net, 0

    def __call__(self, x: torch.Tensor, t: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return self.net(x, t, labels)


def start(model: Model, n: int) -> torch.Tensor:
    """Standard normal start noise (n, c, h, w), the same for every configuration."""
    draws = (generator(SEED, picture, START) for picture in range(n))
    return torch.stack([torch.randn(model.shape, generator=draw) for draw in draws])


def walks(pictures: range) -> list[torch.Generator]:
    """Generators of the noise on the way, one a picture."""
    return [generator(SEED, picture, WALK) for picture in pictures]
