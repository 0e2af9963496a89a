"""What a walk asks for while it crosses the levels, and how each question is answered.

A walk yields an Ask and is sent the answer; a Program is the list of the same Asks with register
names where the walk had latents. An Ask names its latents in ``latents``; ``answer`` gets their
tensors, and a Machine that knows the network and the noise.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, Protocol

from hasten.core.level import Level

Latent = Any
"""A tensor (n, c, h, w), the symbolic latent of the tracer, or a register's name in a Program."""


class Backend(Protocol):
    """Who answers: a network, a source of noise."""

    def denoise(self, x: Any, level: Level) -> Any: ...

    def denoise_with_variance(self, x: Any, level: Level) -> tuple[Any, Any]: ...

    def network(self, x: Any, t: float, branch: str) -> Any: ...

    def noise(self) -> Any: ...

    def reusing(self) -> Backend:
        """The same machine, whose network answers with the features it kept (feature reuse)."""
        ...


@dataclasses.dataclass(frozen=True)
class Ask:
    """One question.

    ``latents``: its fields that hold latents; ``answers``: a letter for each answer, to name
    its registers; ``calls``: whether the network has to be called for it.
    """

    op: ClassVar[str]
    latents: ClassVar[tuple[str, ...]] = ()
    answers: ClassVar[tuple[str, ...]] = ("x",)
    calls: ClassVar[bool] = False

    def answer(self, backend: Backend, *values: Any) -> tuple[Any, ...]:
        raise NotImplementedError

    def reads(self) -> tuple[Any, ...]:
        """Its latents, in order."""
        return tuple(getattr(self, name) for name in self.latents)

    def with_latents(self, values: tuple[Any, ...]) -> Ask:
        """The same question about other latents."""
        return dataclasses.replace(self, **dict(zip(self.latents, values, strict=True)))


@dataclasses.dataclass(frozen=True)
class Denoise(Ask):
    """The clean picture x0 that the network believes is behind ``x`` at ``level``; with ``reuse``
    the network is run in part and takes the rest from its last full evaluation."""

    x: Latent
    level: Level
    reuse: bool = False

    op = "denoise"
    latents = ("x",)
    answers = ("d",)
    calls = True

    def answer(self, backend: Backend, *values: Any) -> tuple[Any, ...]:
        who = backend.reusing() if self.reuse else backend
        return (who.denoise(values[0], self.level),)


@dataclasses.dataclass(frozen=True)
class DenoiseWithVariance(Ask):
    """x0, and the raw variance output in [-1, 1] of a network that learned it (2102.09672)."""

    x: Latent
    level: Level
    reuse: bool = False

    op = "denoise_with_variance"
    latents = ("x",)
    answers = ("d", "v")
    calls = True

    def answer(self, backend: Backend, *values: Any) -> tuple[Any, ...]:
        who = backend.reusing() if self.reuse else backend
        return who.denoise_with_variance(values[0], self.level)


@dataclasses.dataclass(frozen=True)
class Noise(Ask):
    """Fresh standard normal noise."""

    op = "noise"
    answers = ("z",)

    def answer(self, backend: Backend, *values: Any) -> tuple[Any, ...]:
        return (backend.noise(),)


@dataclasses.dataclass(frozen=True)
class Clip(Ask):
    """``x`` held between ``low`` and ``high``: not linear, so a question of its own."""

    x: Latent
    low: float
    high: float

    op = "clip"
    latents = ("x",)
    answers = ("c",)

    def answer(self, backend: Backend, *values: Any) -> tuple[Any, ...]:
        return (values[0].clamp(self.low, self.high),)


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

    def answer(self, backend: Backend, *values: Any) -> tuple[Any, ...]:
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

    def answer(self, backend: Backend, *values: Any) -> tuple[Any, ...]:
        total = values[0] * self.coefficients[0]
        for coefficient, value in zip(self.coefficients[1:], values[1:], strict=True):
            total.add_(value, alpha=coefficient)
        return (total,)

    def reads(self) -> tuple[Any, ...]:
        return self.terms

    def with_latents(self, values: tuple[Any, ...]) -> Ask:
        return dataclasses.replace(self, terms=values)


@dataclasses.dataclass(frozen=True)
class Network(Ask):
    """A raw network output at time ``t``; what :func:`hasten.core.lower.lower` leaves of a Denoise.

    ``branch`` is "cond" for the wanted condition, "null" for no condition (guidance).
    """

    x: Latent
    t: float
    branch: str = "cond"
    reuse: bool = False

    op = "network"
    latents = ("x",)
    answers = ("f",)
    calls = True

    def answer(self, backend: Backend, *values: Any) -> tuple[Any, ...]:
        who = backend.reusing() if self.reuse else backend
        return (who.network(values[0], self.t, self.branch),)


@dataclasses.dataclass(frozen=True)
class DenoiseAt(Ask):
    """x0 of some pictures of the batch, each at its own level: ``x`` (k, c, h, w) holds the latents
    of the pictures ``rows`` (k) at ``levels`` (k). For walks that size their steps by the data: no
    Program holds it, and only a machine of the walk itself has ``denoise_at`` and ``noise_of``."""

    x: Latent
    levels: tuple[Level, ...]
    rows: tuple[int, ...]

    op = "denoise_at"
    latents = ("x",)
    answers = ("d",)
    calls = True

    def answer(self, backend: Any, *values: Any) -> tuple[Any, ...]:
        return (backend.denoise_at(values[0], self.levels, self.rows),)


@dataclasses.dataclass(frozen=True)
class NoiseOf(Ask):
    """Fresh standard normal noise (k, c, h, w) for the pictures ``rows`` (k) alone: each picture's
    own next draw, whatever the others have drawn. No Program holds it."""

    rows: tuple[int, ...]

    op = "noise_of"
    answers = ("z",)

    def answer(self, backend: Any, *values: Any) -> tuple[Any, ...]:
        return (backend.noise_of(self.rows),)


ASKS: dict[str, type[Ask]] = {
    kind.op: kind for kind in (Denoise, DenoiseWithVariance, Noise, Clip, Scatter, Combine, Network)
}
