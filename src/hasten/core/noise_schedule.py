"""A noise schedule: how noise is added over time, ``x = alpha * x0 + sigma * noise``.

A position runs along the schedule in its own unit (an index, a fraction, a sigma); the Level there
says how much signal and noise there is, and which time the network is given. All numbers are
float64. Every schedule is written once, in NumPy, for one position or an array of them.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from hasten.core.errors import UserError, require, require_number
from hasten.core.files import JsonObject
from hasten.core.level import Array, Level
from hasten.core.registry import Registry


class NoiseSchedule(ABC):
    """The levels between a clean picture and noise, by position.

    ``noisy`` is the position of the noisiest level, ``low`` of the cleanest level the network was
    trained at, ``clean`` of a picture without noise (sigma = 0).
    """

    part_name: ClassVar[str]

    @property
    @abstractmethod
    def noisy(self) -> float: ...

    @property
    @abstractmethod
    def low(self) -> float: ...

    @property
    def clean(self) -> float:
        return 0.0

    @abstractmethod
    def curve(self, position: Array) -> tuple[Array, Array, Array]:
        """(t, alpha, sigma) at an array of positions."""

    @abstractmethod
    def position(self, half_log_snr: float) -> float:
        """The position whose log(alpha / sigma) is ``half_log_snr``: the inverse of :meth:`at`,
        held to the ends of a learned schedule."""

    def at(self, position: float) -> Level:
        """The level at one position."""
        with np.errstate(divide="ignore"):
            t, alpha, sigma = self.curve(np.asarray(position, np.float64))
        return Level(float(t), float(alpha), float(sigma))

    def config(self) -> dict[str, object]:
        """JSON from which :func:`schedule` makes the same schedule."""
        return {"name": self.part_name, **dataclasses.asdict(self)}  # type: ignore[call-overload]


schedules: Registry[NoiseSchedule] = Registry("noise schedule", "hasten.core.learned_schedule")


@schedules.add("vp-linear")
@dataclasses.dataclass(frozen=True, kw_only=True)
class VPLinear(NoiseSchedule):
    """Variance preserving with linear beta, in continuous time (Song et al. 2011.13456, eq. 32).

    Positions are fractions in [0, 1]; the network is told ``1000 * position``.
    """

    beta_min: float = 0.1
    beta_max: float = 20.0
    first: float = 1e-3

    def __post_init__(self) -> None:
        require_number("schedule option beta_min", self.beta_min, 1e-6, 1e3)
        require_number("schedule option beta_max", self.beta_max, self.beta_min, 1e4)
        require_number("schedule option first", self.first, 1e-6, 0.5)

    @property
    def noisy(self) -> float:
        return 1.0

    @property
    def low(self) -> float:
        return self.first

    def curve(self, position: Array) -> tuple[Array, Array, Array]:
        slope = self.beta_max - self.beta_min
        log_alpha = -0.25 * position**2 * slope - 0.5 * position * self.beta_min
        return 1000.0 * position, np.exp(log_alpha), np.sqrt(-np.expm1(2 * log_alpha))

    def position(self, half_log_snr: float) -> float:
        slope = self.beta_max - self.beta_min
        log_alpha = -0.5 * np.logaddexp(0.0, -2.0 * half_log_snr)
        # slope/4 p^2 + beta_min/2 p + log_alpha = 0, in the form that does not cancel.
        root = math.sqrt(0.25 * self.beta_min**2 - slope * log_alpha)
        return float(-2.0 * log_alpha / (0.5 * self.beta_min + root))


@schedules.add("vp-cosine")
@dataclasses.dataclass(frozen=True, kw_only=True)
class VPCosine(NoiseSchedule):
    """Variance preserving with the cosine curve (Nichol & Dhariwal 2102.09672, eq. 17).

    Positions are fractions in [0, 1]; the network is told ``1000 * position``. At 1 there is no
    signal left (alpha = 0), which an epsilon network cannot answer, so it ends at ``end``.
    """

    offset: float = 0.008
    end: float = 0.9946
    first: float = 1e-3

    def __post_init__(self) -> None:
        require_number("schedule option offset", self.offset, 0.0, 0.5)
        require_number("schedule option end", self.end, 0.5, 1.0)
        require_number("schedule option first", self.first, 1e-6, 0.5)

    @property
    def noisy(self) -> float:
        return self.end

    @property
    def low(self) -> float:
        return self.first

    @property
    def _origin(self) -> float:
        return math.cos(self.offset / (1 + self.offset) * math.pi / 2)

    def curve(self, position: Array) -> tuple[Array, Array, Array]:
        angle = (position + self.offset) / (1 + self.offset) * np.pi / 2
        alpha = np.where(position >= 1.0, 0.0, np.minimum(np.cos(angle) / self._origin, 1.0))
        return 1000.0 * position, alpha, np.sqrt(1 - alpha**2)

    def position(self, half_log_snr: float) -> float:
        alpha = math.exp(-0.5 * float(np.logaddexp(0.0, -2.0 * half_log_snr)))
        angle = math.acos(alpha * self._origin)
        return angle * 2 / math.pi * (1 + self.offset) - self.offset


@schedules.add("edm")
@dataclasses.dataclass(frozen=True, kw_only=True)
class EDM(NoiseSchedule):
    """Variance exploding, positions are sigma itself (Karras et al. 2206.00364).

    The network is told ``log(sigma) / 4`` (their c_noise).
    """

    sigma_min: float = 0.002
    sigma_max: float = 80.0

    def __post_init__(self) -> None:
        require_number("schedule option sigma_min", self.sigma_min, 1e-8, 1e3)
        require_number("schedule option sigma_max", self.sigma_max, self.sigma_min, 1e6)

    @property
    def noisy(self) -> float:
        return self.sigma_max

    @property
    def low(self) -> float:
        return self.sigma_min

    def curve(self, position: Array) -> tuple[Array, Array, Array]:
        return 0.25 * np.log(position), np.ones_like(position), position

    def position(self, half_log_snr: float) -> float:
        return math.exp(-half_log_snr)


@schedules.add("flow")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Flow(NoiseSchedule):
    """Straight line from data to noise (Lipman et al. 2210.02747), with the resolution shift of
    Esser et al. 2403.03206, eq. 23.

    Positions are fractions before the shift; sigma is the shifted fraction, alpha = 1 - sigma, and
    the network is told ``1000 * sigma``.
    """

    shift: float = 1.0
    first: float = 1e-3

    def __post_init__(self) -> None:
        require_number("schedule option shift", self.shift, 1e-3, 1e3)
        require_number("schedule option first", self.first, 1e-6, 0.5)

    @property
    def noisy(self) -> float:
        return 1.0

    @property
    def low(self) -> float:
        return self.first

    def curve(self, position: Array) -> tuple[Array, Array, Array]:
        sigma = self.shift * position / (1 + (self.shift - 1) * position)
        return 1000.0 * sigma, 1.0 - sigma, sigma

    def position(self, half_log_snr: float) -> float:
        sigma = 1.0 / (1.0 + math.exp(half_log_snr))
        return sigma / (self.shift - (self.shift - 1) * sigma)


@schedules.add("discrete")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Discrete(NoiseSchedule):
    """The table ``alphas_cumprod`` of a discrete-time model (Ho et al. 2006.11239), read between
    its entries too.

    Positions are float indices and also the times told to the network: 0 is the first entry, -1 a
    clean picture. Between two entries log-SNR is linear, as in k-diffusion and diffusers; next to
    an end without noise or without signal, where log-SNR is infinite, the angle is.
    """

    alphas_cumprod: tuple[float, ...]

    def __post_init__(self) -> None:
        table = tuple(float(value) for value in self.alphas_cumprod)
        object.__setattr__(self, "alphas_cumprod", table)
        require(len(table) >= 2, "schedule option alphas_cumprod needs two entries or more.")
        inside = all(0 <= value < 1 for value in table) and min(table[:-1]) > 0
        falling = all(a > b for a, b in itertools.pairwise(table))
        require(
            inside and falling,
            "schedule option alphas_cumprod must fall from below 1 to 0 or above; "
            "give the cumulative product of (1 - beta).",
        )

    @property
    def noisy(self) -> float:
        return len(self.alphas_cumprod) - 1.0

    @property
    def low(self) -> float:
        return 0.0

    @property
    def clean(self) -> float:
        return -1.0

    @functools.cached_property
    def _angles(self) -> Array:
        """Angle of each entry, tan(angle) = sigma / alpha, with the clean entry in front."""
        table = np.asarray((1.0, *self.alphas_cumprod))
        return np.arctan2(np.sqrt(1 - table), np.sqrt(table))

    @functools.cached_property
    def _half_log_snrs(self) -> Array:
        with np.errstate(divide="ignore"):
            return -np.log(np.tan(self._angles))[1:]

    @property
    def _last_finite(self) -> int:
        return len(self.alphas_cumprod) - (2 if self.alphas_cumprod[-1] == 0 else 1)

    def curve(self, position: Array) -> tuple[Array, Array, Array]:
        index = np.arange(-1.0, len(self.alphas_cumprod))
        angle = np.interp(position, index, self._angles)
        last = self._last_finite
        inside = (position >= 0) & (position <= last)
        value = np.interp(position, index[1 : last + 2], self._half_log_snrs[: last + 1])
        angle = np.where(inside, np.arctan(np.exp(-value)), angle)
        alpha = np.where(angle >= np.pi / 2, 0.0, np.cos(angle))
        return position * 1.0, alpha, np.sin(angle)

    def position(self, half_log_snr: float) -> float:
        index = np.arange(-1.0, len(self.alphas_cumprod))
        last = self._last_finite
        known = self._half_log_snrs[: last + 1]
        if known[-1] <= half_log_snr <= known[0]:
            return float(np.interp(half_log_snr, known[::-1], index[1 : last + 2][::-1]))
        angle = math.atan(math.exp(-half_log_snr)) if half_log_snr > -700 else math.pi / 2
        return float(np.interp(angle, self._angles, index))

    def config(self) -> dict[str, object]:
        return {"name": "discrete", "alphas_cumprod": list(self.alphas_cumprod)}

    @staticmethod
    def from_betas(betas: Sequence[float] | Array, zero_terminal_snr: bool = False) -> Discrete:
        """From the betas of DDPM; ``zero_terminal_snr`` rescales them (Lin et al. 2305.08891)."""
        table: Array = np.cumprod(1.0 - np.asarray(betas), dtype=np.float64)
        table = zero_terminal(table) if zero_terminal_snr else table
        return Discrete(alphas_cumprod=tuple(table.tolist()))


def zero_terminal(alphas_cumprod: Array) -> Array:
    """``alphas_cumprod`` rescaled to end without signal (Lin et al. 2305.08891, algorithm 1)."""
    root = np.sqrt(alphas_cumprod)
    return ((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2


def ddpm_schedule(levels: int = 1000) -> Discrete:
    """The schedule as published in DDPM: ``levels`` betas from 1e-4 to 0.02."""
    return Discrete.from_betas(np.linspace(1e-4, 0.02, levels))


def schedule(source: str | JsonObject | NoiseSchedule) -> NoiseSchedule:
    """A NoiseSchedule from a name (``"vp-linear"``, ``"flow(shift=3.0)"``, ``"ddpm"``), or a dict
    as :meth:`NoiseSchedule.config` gives it.

    Raises:
        UserError: unknown name, option or schedule.
    """
    if isinstance(source, NoiseSchedule):
        return source
    if isinstance(source, str):
        return ddpm_schedule() if source.strip() == "ddpm" else schedules.parse(source)
    require(isinstance(source, dict), f"schedule is {source!r}; give a name or a dict.")
    require("name" in source, "schedule is a dict without 'name'; put the name of a schedule in.")
    name, options = source["name"], {k: v for k, v in source.items() if k != "name"}
    require(
        isinstance(name, str), f"schedule name is {name!r}; give one of {', '.join(schedules)}."
    )
    try:
        return ddpm_schedule(**options) if name == "ddpm" else schedules.make(name, options)
    except (TypeError, ValueError) as error:
        raise UserError(f"schedule {name!r}: {error}") from error
