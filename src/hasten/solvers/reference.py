"""The probability-flow ODE and the reverse SDE through other packages' integrators.

Both are integrated as they stand (Song et al. 2011.13456, eq. 13 and 6), in y = x / alpha along
half log-SNR l, where they read ``dy = (x0 - y) dl`` and ``dy = 2 (x0 - y) dl + sqrt(2) sigma/alpha
dw``: no schedule's own functions occur, and nothing is divided by a small number. They are slow,
and there to hold the solvers of this package against.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import math
from collections.abc import Sequence
from typing import Any

import torch

from hasten.core.ask import Denoise, DenoiseAt, Noise
from hasten.core.errors import (
    NonFiniteError,
    UserError,
    require,
    require_choice,
    require_number,
    require_whole,
)
from hasten.core.level import Level
from hasten.core.program import Walk
from hasten.core.solver import solvers
from hasten.solvers.bridge import AskFunction, walk_of
from hasten.solvers.off_grid import Between, Read

ADAPTIVE = ("dopri5", "dopri8", "bosh3", "fehlberg2", "adaptive_heun")
FIXED = ("euler", "midpoint", "heun3", "rk4")
SDE_METHODS = {
    "euler": "ito",
    "srk": "ito",
    "heun": "stratonovich",
    "midpoint": "stratonovich",
}


@solvers.add("ode")
@dataclasses.dataclass(frozen=True, kw_only=True)
class ODE(Between):
    """torchdiffeq's integrators on the probability-flow ODE.

    The adaptive methods (dopri5, dopri8, bosh3, fehlberg2, adaptive_heun) go from one end of the
    grid to the other with ``rtol`` and ``atol`` (1e-5 each by default), every picture on its own,
    because their step sizes would otherwise depend on its batch-mates. The others (euler, midpoint,
    heun3, rk4) take one step from each level of the grid to the next, with a whole batch, and have
    no tolerances. Multistep methods are left out: to be stable their steps would have to be far
    shorter than those of a grid. The state is float64 where the device has it.
    """

    method: str = "dopri5"
    rtol: float | None = None
    atol: float | None = None

    def __post_init__(self) -> None:
        require_choice("solver option method", self.method, (*ADAPTIVE, *FIXED))
        for name in ("rtol", "atol"):
            value = getattr(self, name)
            if value is None:
                continue
            require_number(f"solver option {name}", value, 1e-12, 1.0)
            require(
                self.method in ADAPTIVE,
                f"solver option {name} is {value!r}, but method {self.method!r} takes the grid's "
                f"steps; drop {name}, or use one of {', '.join(ADAPTIVE)}.",
            )
        _require("torchdiffeq", "ode")

    def inside(self, x: torch.Tensor, levels: Sequence[Level], read: Read) -> Walk:
        if self.method in FIXED:
            return (yield from self._integrated(x, levels, read, None))
        ends, out = (levels[0], levels[-1]), []
        for row in range(len(x)):
            out.append((yield from self._integrated(x[row : row + 1], ends, read, row)))
        return torch.cat(out)

    def _integrated(
        self, x: torch.Tensor, levels: Sequence[Level], read: Read, row: int | None
    ) -> Walk:
        """From the first to the last of ``levels``: the batch, or its picture ``row`` alone."""
        odeint = importlib.import_module("torchdiffeq").odeint
        wide = _wide(x)
        at = torch.tensor([level.half_log_snr for level in levels], dtype=wide, device=x.device)
        tolerances = {"rtol": self.rtol or 1e-5, "atol": self.atol or 1e-5}

        def run(ask: AskFunction) -> torch.Tensor:
            def rate(half_log_snr: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
                return _clean(ask, y, _level(float(half_log_snr), levels, read), x.dtype, row) - y

            y = x.to(wide) / levels[0].alpha
            try:
                return odeint(rate, y, at, method=self.method, **tolerances)[-1]
            except AssertionError as error:  # its way to say that the step size fell to nothing
                raise UserError(
                    f"solver 'ode' cannot keep to rtol={tolerances['rtol']:g} and "
                    f"atol={tolerances['atol']:g} here ({error}); raise them."
                ) from error

        y = yield from walk_of(run, x.device)
        return (y * levels[-1].alpha).to(x.dtype)


@solvers.add("sde")
@dataclasses.dataclass(frozen=True, kw_only=True)
class SDE(Between):
    """torchsde's integrators on the reverse SDE: euler and srk in Ito's form, heun and midpoint in
    Stratonovich's (the noise does not depend on y, so both are the same SDE).

    Each step of the grid is divided into ``substeps`` even in log-SNR. The increments of the
    Brownian motion come from each picture's own random numbers, two draws a step for srk.
    """

    stochastic = True
    method: str = "euler"
    substeps: int = 1

    def __post_init__(self) -> None:
        require_choice("solver option method", self.method, SDE_METHODS)
        require_whole("solver option substeps", self.substeps, 1, 100_000)
        _require("torchsde", "sde")

    def inside(self, x: torch.Tensor, levels: Sequence[Level], read: Read) -> Walk:
        torchsde = importlib.import_module("torchsde")
        wide = _wide(x)
        places = [level.half_log_snr for level in levels]

        def run(ask: AskFunction) -> torch.Tensor:
            # One unit of time a step of the grid, so that steps of one length visit its levels.
            y = (x.to(wide) / levels[0].alpha).flatten(1)
            motion = _motion(ask, y, x.shape, self.method == "srk")
            sde = _Reverse(ask, levels, places, read, x)
            sde.sde_type = SDE_METHODS[self.method]
            times = torch.arange(len(levels), dtype=wide, device=x.device)
            options = {"method": self.method, "dt": 1 / self.substeps, "bm": motion}
            return torchsde.sdeint(sde, y, times, **options)[-1].view(x.shape)

        y = yield from walk_of(run, x.device)
        return (y * levels[-1].alpha).to(x.dtype)


class _Reverse(torch.nn.Module):
    """The reverse SDE as torchsde takes it, on flattened y against time counted in grid steps."""

    noise_type = "diagonal"
    sde_type = "ito"

    def __init__(
        self,
        ask: AskFunction,
        levels: Sequence[Level],
        places: list[float],
        read: Read,
        like: torch.Tensor,
    ) -> None:
        super().__init__()
        self.ask, self.levels, self.places = ask, levels, places
        self.read, self.like = read, like

    def f(self, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Drift, a step of the grid being one unit of time."""
        place, length = self._place(t)
        level = _level(place, self.levels, self.read)
        x0 = _clean(self.ask, y.view(self.like.shape), level, self.like.dtype, None)
        return 2 * length * (x0.flatten(1) - y)

    def g(self, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Diffusion, the same for every number of a picture."""
        place, length = self._place(t)
        return torch.full_like(y, math.sqrt(2 * length) * math.exp(-place))

    def _place(self, t: torch.Tensor) -> tuple[float, float]:
        """(half log-SNR at time ``t``, length of the grid's step there)."""
        step = min(max(int(float(t) + 1e-9), 0), len(self.places) - 2)
        length = self.places[step + 1] - self.places[step]
        return self.places[step] + (float(t) - step) * length, length


def _motion(ask: AskFunction, y: torch.Tensor, shape: torch.Size, area: bool) -> object:
    """A Brownian motion for torchsde that asks for its increments, each interval once, in order."""
    base = importlib.import_module("torchsde").BaseBrownian

    class Motion(base):
        dtype, device, shape = y.dtype, y.device, y.shape
        levy_area_approximation = "space-time" if area else "none"

        def __repr__(self) -> str:
            return "Motion()"

        def __call__(
            self, ta: Any, tb: Any = None, return_U: bool = False, return_A: bool = False
        ) -> object:
            length = float(tb) - float(ta)
            increment = math.sqrt(length) * self.noise()
            if not return_U:
                return increment
            # The integral of w over the step, jointly normal with its increment.
            own = math.sqrt(length**3 / 12) * self.noise()
            return increment, 0.5 * length * increment + own

        def noise(self) -> torch.Tensor:
            return ask(Noise()).to(y.dtype).view(y.shape)

    return Motion()


def _clean(
    ask: AskFunction, y: torch.Tensor, level: Level, dtype: torch.dtype, row: int | None
) -> torch.Tensor:
    """x0 for x = alpha y at ``level``, asked in the walk's own ``dtype``."""
    x = (y * level.alpha).to(dtype)
    question = Denoise(x, level) if row is None else DenoiseAt(x, (level,), (row,))
    x0 = ask(question).to(y.dtype)
    if not bool(torch.isfinite(x0).all()):
        raise NonFiniteError(
            f"the network's answer at t = {level.t:g} is not finite. Its weights may be damaged or "
            "its dtype too narrow: use dtype=float32, or load the model again."
        )
    return x0


def _level(place: float, levels: Sequence[Level], read: Read) -> Level:
    """The level at a half log-SNR; a level of the grid itself where it is one to rounding, and no
    level beyond its ends."""
    for level in levels:
        if abs(level.half_log_snr - place) < 1e-9:
            return level
    return read(min(max(place, levels[0].half_log_snr), levels[-1].half_log_snr))


def _wide(x: torch.Tensor) -> torch.dtype:
    return x.dtype if x.device.type == "mps" else torch.float64


def _require(module: str, solver: str) -> None:
    installed = importlib.util.find_spec(module) is not None
    need = f'solver {solver!r} needs: pip install "hasten[reference]" ({module} is missing)'
    require(installed, need)
