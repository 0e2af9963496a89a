"""What takes the steps of a training, and how far."""

from __future__ import annotations

import math

import torch

from hasten.training.ema import trained
from hasten.training.recipe import Optimizer


def adamw(net: torch.nn.Module, options: Optimizer) -> torch.optim.Optimizer:
    """AdamW (1711.05101) for the weights of ``net`` that are trained."""
    return torch.optim.AdamW(
        list(trained(net).values()),
        lr=options.rate,
        betas=options.betas,
        weight_decay=options.weight_decay,
        fused=True,
    )


def set_rate_(optimizer: torch.optim.Optimizer, options: Optimizer, step: int, steps: int) -> None:
    """The learning rate of ``step``: a linear warm-up in pictures, and the decay over the run."""
    warm = min(1.0, (step + 1) * options.batch / max(options.warmup, 1))
    left = 1 - step / steps
    shape = {"none": 1.0, "linear": left, "cosine": 0.5 - 0.5 * math.cos(math.pi * left)}
    for group in optimizer.param_groups:
        group["lr"] = options.rate * warm * shape[options.decay]
