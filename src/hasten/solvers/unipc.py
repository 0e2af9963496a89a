"""UniPC (Zhao et al. 2302.04867)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from hasten.core.ask import Denoise, Latent
from hasten.core.errors import require, require_choice, require_whole
from hasten.core.level import Level
from hasten.core.program import Walk
from hasten.core.solver import Solver, solvers
from hasten.solvers.steps import exponential_step, gain, phi, usable_order

Known = list[tuple[Level, Latent]]
"""Levels and the x0 answered there, the newest first."""


@solvers.add("unipc")
@dataclasses.dataclass(frozen=True, kw_only=True)
class UniPC(Solver):
    """Predicts with UniP, corrects with UniC by the answer the next step asks for anyway
    (algorithms 1 and 2, x0 form): order ``order``, one more with the ``corrector``.

    ``variant`` is B(h): "bh1" is h, "bh2" is e^h - 1; it shows only where the paper sets the single
    weight to B(h) / 2, because a solved system of weights does not depend on it. The order falls
    towards the last step, which nothing corrects.
    """

    title = "UniPC"

    order: int = 2
    variant: str = "bh2"
    corrector: bool = True

    def __post_init__(self) -> None:
        require_whole("solver option order", self.order, 1, 3)
        require_choice("solver option variant", self.variant, ["bh1", "bh2"])
        known = isinstance(self.corrector, bool)
        require(known, f"solver option corrector is {self.corrector!r}; it takes True or False.")

    def walk(self, x: Latent, levels: Sequence[Level]) -> Walk:
        steps, known, used = len(levels) - 1, [], []
        for index, (here, there) in enumerate(pairwise(levels)):
            x0 = yield Denoise(x, here)
            if self.corrector and used and used[0][0].alpha > 0:
                x = x + self._change(used, [(here, x0)], here) - self._change(used, [], here)
            known = [(here, x0), *known][: self.order]
            order = min(usable_order(self.order, index, levels), steps - index)
            used = known[:order]
            x = exponential_step(x, x0, here, there) + self._change(used, [], there)
        return x

    def _change(self, known: Known, new: Known, there: Level) -> Latent:
        """What the other answers add to the step that holds the newest of ``known`` constant."""
        (here, x0), *others = known
        others = others + new
        if not others:
            return 0.0 * x0
        h = gain(here, there)
        places = [gain(here, level) / h for level, _ in others]
        weights = self._weights(places, h)
        return sum(
            (there.alpha * weight / place) * (answer - x0)
            for weight, place, (_, answer) in zip(weights, places, others, strict=True)
        )

    def _weights(self, places: list[float], h: float) -> list[float]:
        """B(h) a_k with sum_k a_k r_k^(n-1) = n! h phi_(n+1)(-h) / B(h) (theorem 3.1)."""
        if len(places) == 1:
            return [h / 2 if self.variant == "bh1" else -math.expm1(-h) / 2]
        orders = range(1, len(places) + 1)
        powers = np.asarray([[place ** (n - 1) for place in places] for n in orders])
        wanted = [math.factorial(n) * h * phi(n + 1, -h) for n in orders]
        return np.linalg.solve(powers, np.asarray(wanted)).tolist()
