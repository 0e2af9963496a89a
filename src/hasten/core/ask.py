"""What a solver asks for while it crosses the levels.

A walk yields an Ask and is sent the answer; a Program is the list of the same Asks with register
names where the walk had latents. An Ask names its latents in ``latents``. Some follow from their
latents alone (``compute``); a network call or fresh noise comes from whoever drives the run.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import torch

from hasten.core.call import FULL
from hasten.core.condition import COND
from hasten.core.level import Level

Latent = Any
"""A tensor (n, ...), the symbolic latent of the tracer, or a register's name in a Program."""

MAIN = "main"  # the condition that an evaluation asks about unless it names another


@dataclasses.dataclass(frozen=True)
class Ask:
    """One request.

    ``latents``: its fields that hold latents; ``answers``: a letter for each answer, to name
    its registers; ``calls``: whether the network has to be called for it.
    """

    op: ClassVar[str]
    latents: ClassVar[tuple[str, ...]] = ()
    answers: ClassVar[tuple[str, ...]] = ("x",)
    calls: ClassVar[bool] = False

    def compute(self, *values: torch.Tensor) -> tuple[torch.Tensor, ...] | None:
        """The answers, from tensors in the place of its latents; None where they do not follow from
        those alone."""
        return None

    def reads(self) -> tuple[Latent, ...]:
        """Its latents, in order."""
        return tuple(getattr(self, name) for name in self.latents)

    def with_latents(self, values: tuple[Latent, ...]) -> Ask:
        """The same request about other latents."""
        return dataclasses.replace(self, **dict(zip(self.latents, values, strict=True)))


@dataclasses.dataclass(frozen=True)
class Denoise(Ask):
    """The clean picture x0 that the network believes is behind ``x`` at ``level``.

    ``variant`` is the variant of the network that answers (``full``, or what a lever marked, such
    as ``cached``); ``condition`` names the condition that is asked about, where there are several.
    """

    x: Latent
    level: Level
    variant: str = FULL
    condition: str = MAIN

    op = "denoise"
    latents = ("x",)
    answers = ("d",)
    calls = True


@dataclasses.dataclass(frozen=True)
class DenoiseWithVariance(Ask):
    """x0, and the raw variance output in [-1, 1] of a network that learned it (2102.09672)."""

    x: Latent
    level: Level
    variant: str = FULL
    condition: str = MAIN

    op = "denoise_with_variance"
    latents = ("x",)
    answers = ("d", "v")
    calls = True


@dataclasses.dataclass(frozen=True)
class Noise(Ask):
    """Fresh standard normal noise."""

    op = "noise"
    answers = ("z",)


@dataclasses.dataclass(frozen=True)
class Clip(Ask):
    """``x`` held between ``low`` and ``high``: not linear, so an operation of its own."""

    x: Latent
    low: float
    high: float

    op = "clip"
    latents = ("x",)
    answers = ("c",)

    def compute(self, *values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return (values[0].clamp(self.low, self.high),)


@dataclasses.dataclass(frozen=True)
class Blend(Ask):
    """``mask * x + (1 - mask) * y`` with a mask in [0, 1] that is an input of the program: where an
    edit may change the picture (RePaint 2201.09865, eq. 8c)."""

    x: Latent
    y: Latent
    mask: Latent

    op = "blend"
    latents = ("x", "y", "mask")
    answers = ("b",)

    def compute(self, *values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        x, y, mask = values
        return (y + mask * (x - y),)


@dataclasses.dataclass(frozen=True)
class Scatter(Ask):
    """Noise times the standard deviation a network learned: ``noise * exp(log_variance / 2)``, with
    log_variance between ``low`` and ``high`` as ``variance`` in [-1, 1] says (2102.09672, eq. 15).
    """

    noise: Latent
    variance: Latent
    low: float
    high: float

    op = "scatter"
    latents = ("noise", "variance")
    answers = ("s",)

    def compute(self, *values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        noise, variance = values
        middle, half = 0.5 * (self.low + self.high), 0.5 * (self.high - self.low)
        return (noise * (0.5 * (middle + half * variance)).exp(),)


@dataclasses.dataclass(frozen=True)
class Combine(Ask):
    """``sum(coefficient * latent)``. The tracer writes it for every sum it needs; a walk asks for
    it where one remembered latent is to cost one register."""

    terms: tuple[Latent, ...]
    coefficients: tuple[float, ...]

    op = "combine"
    answers = ("x",)

    def compute(self, *values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        total = values[0] * self.coefficients[0]
        for coefficient, value in zip(self.coefficients[1:], values[1:], strict=True):
            total.add_(value, alpha=coefficient)
        return (total,)

    def reads(self) -> tuple[Latent, ...]:
        return self.terms

    def with_latents(self, values: tuple[Latent, ...]) -> Ask:
        return dataclasses.replace(self, terms=values)


@dataclasses.dataclass(frozen=True)
class Network(Ask):
    """A raw network output at time ``t``; what :func:`hasten.core.lower.lower` leaves of a Denoise.

    ``branch`` is "cond" for the wanted condition, "null" for no condition (guidance).
    """

    x: Latent
    t: float
    branch: str = COND
    variant: str = FULL
    condition: str = MAIN

    op = "network"
    latents = ("x",)
    answers = ("f",)
    calls = True


@dataclasses.dataclass(frozen=True)
class DenoiseAt(Ask):
    """x0 of some pictures of the batch, each at its own level: ``x`` (k, ...) holds the latents of
    the pictures ``rows`` (k) at ``levels`` (k). For walks that size their steps by the data; no
    Program holds it."""

    x: Latent
    levels: tuple[Level, ...]
    rows: tuple[int, ...]

    op = "denoise_at"
    latents = ("x",)
    answers = ("d",)
    calls = True


@dataclasses.dataclass(frozen=True)
class NoiseOf(Ask):
    """Fresh standard normal noise (k, ...) for the pictures ``rows`` (k) alone: each picture's own
    next draw, whatever the others have drawn. No Program holds it."""

    rows: tuple[int, ...]

    op = "noise_of"
    answers = ("z",)


ASKS: dict[str, type[Ask]] = {
    kind.op: kind
    for kind in (Denoise, DenoiseWithVariance, Noise, Clip, Blend, Scatter, Combine, Network)
}
