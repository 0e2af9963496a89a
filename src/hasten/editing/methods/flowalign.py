"""FlowAlign (Kim et al. 2505.23145): FlowEdit with a term that keeps to the source."""

from __future__ import annotations

import dataclasses
from itertools import pairwise

from hasten.core.ask import Denoise, Latent
from hasten.core.errors import require_number
from hasten.core.program import Walk
from hasten.editing.method import SOURCE, Given, Method, flow_time, methods, require_strength
from hasten.editing.methods.flowedit import noised_pair


@methods.add("flowalign")
@dataclasses.dataclass(frozen=True, kw_only=True)
class FlowAlign(Method):
    """As FlowEdit, but the edit is guided away from what the source shows by ``scale``, and the
    estimate is drawn back to the source's by ``zeta`` at each step. Three evaluations a step, none
    of them guided otherwise."""

    strength: float = 0.7
    scale: float = 13.5
    zeta: float = 0.01

    guides = True

    def __post_init__(self) -> None:
        require_strength(self.strength)
        require_number("method option scale", self.scale, 0.0, 100.0)
        require_number("method option zeta", self.zeta, 0.0, 1.0)

    def walk(self, given: Given) -> Walk:
        edited: Latent | None = None
        for here, there in pairwise(given.last(self.strength)):
            source, moved = yield from noised_pair(given, edited, here)
            wanted = yield Denoise(moved, here)
            other = yield Denoise(moved, here, condition=SOURCE)
            shown = yield Denoise(source, here, condition=SOURCE)
            change = self.scale * wanted + (1 - self.scale) * other - shown
            share = flow_time(there) / flow_time(here)
            before = 0.0 if edited is None else share * edited
            edited = (1 - share - self.zeta) * change + before
        return given.source + edited
