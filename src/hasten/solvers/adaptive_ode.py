"""The probability-flow ODE with error control (DPM-Solver-12 and -23 of Lu et al. 2206.00927, in
the x0 form of 2211.01095)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch

from hasten.core.errors import require_whole
from hasten.core.level import Level
from hasten.core.linear import Linear
from hasten.core.solver import solvers
from hasten.solvers.adaptive import Adaptive, Attempt, Trials, combined
from hasten.solvers.dpmpp import singlestep


@solvers.add("adaptive-ode")
@dataclasses.dataclass(frozen=True, kw_only=True)
class AdaptiveODE(Adaptive):
    """DPM-Solver++ in steps as long as the tolerances allow: 2S with the first-order step inside it
    (``order`` 2), or 3S with 2S inside it (3). The in-between levels lie evenly in log-SNR, so an
    accepted step is one of ``dpmpp(order=..., singlestep=True)`` on a grid that lists them.

    ``rtol`` and ``atol`` are for latents divided by the spread of their level. A step takes
    ``order`` evaluations, one less when it is tried again.
    """

    title = "DPM-Solver++, adaptive"

    order: int = 3
    rtol: float = 0.05
    atol: float = 0.0078

    def __post_init__(self) -> None:
        require_whole("solver option order", self.order, 2, 3)
        self.check_tolerances()

    def frozen(self) -> str:
        return f"dpmpp(order={self.order}, singlestep=True)"

    def inner(self) -> int:
        return self.order

    @property
    def power(self) -> float:
        return 1 / self.order

    def attempt(self, now: Trials) -> Attempt:
        if now.fresh:
            now.learn_("0", (yield now.ask_fresh()))
        levels, values = [now.here], {"x": now.x, "0": now.known["0"]}
        for stage in range(1, self.order):
            levels.append(now.middles(stage / self.order))
            x = _steps(levels[:-1], levels[-1], values)
            values[str(stage)] = yield now.ask(x, levels[-1])
        low = _steps(levels[:-1], now.there, values)
        return low, _steps(levels, now.there, values)


def _steps(
    levels: Sequence[Sequence[Level]], there: Sequence[Level], values: dict[str, torch.Tensor]
) -> torch.Tensor:
    """Every picture's step to ``there`` by the x0 that were answered at ``levels``."""
    sums = []
    for *known, end in zip(*levels, there, strict=True):
        answers = [(level, Linear({str(k): 1.0})) for k, level in enumerate(known)]
        sums.append(singlestep(Linear({"x": 1.0}), answers, end))
    return combined(sums, values)
