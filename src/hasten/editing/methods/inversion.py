"""Editing by inversion: the source back to its noise, then forward with another condition (DDIM,
Song et al. 2010.02502; Hertz et al. 2208.01626, section 4)."""

from __future__ import annotations

import dataclasses
from itertools import pairwise

from hasten.core.ask import Denoise
from hasten.core.program import Walk
from hasten.editing.method import SOURCE, Given, Method, methods, require_strength
from hasten.solvers.steps import noise_in


@methods.add("inversion")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Inversion(Method):
    """DDIM's steps backwards, asked about what the source shows, up to the first level of the last
    ``strength`` of the steps; then the solver's way down. One evaluation more than twice the steps.

    :func:`hasten.invert` finds the exact noise of a source, at more evaluations.
    """

    strength: float = 1.0

    def __post_init__(self) -> None:
        require_strength(self.strength)

    def walk(self, given: Given) -> Walk:
        levels = given.last(self.strength)
        up = [level for level in reversed(levels) if level.sigma > 0]
        x = up[0].alpha * given.source  # nearly clean
        for here, there in pairwise(up):
            x0 = yield Denoise(x, here, condition=SOURCE)
            x = there.alpha * x0 + there.sigma * noise_in(x, x0, here)
        return (yield from given.solver.walk(x, levels))
