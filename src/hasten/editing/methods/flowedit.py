"""FlowEdit (Kulikov et al. 2412.08629): from the source to its edit without inversion."""

from __future__ import annotations

import dataclasses
from itertools import pairwise

from hasten.core.ask import Combine, Denoise, Latent, Noise
from hasten.core.errors import require_number, require_whole
from hasten.core.level import Level
from hasten.core.program import Walk
from hasten.editing.method import SOURCE, Given, Method, flow_time, methods, require_strength


@methods.add("flowedit")
@dataclasses.dataclass(frozen=True, kw_only=True)
class FlowEdit(Method):
    """The source moves along the difference of two velocities (their algorithm 1): what the network
    answers about the edit, and about the source, with the same noise. With z = source + d, in x0:
    d' = s'/s d + (1 - s'/s) (x0 of the edit - x0 of the source).

    Attributes:
        strength: the share of the steps that are taken (n_max of N): 0.66 for SD3, 0.86 for Flux.
        source_guidance: the guidance scale of what is asked about the source; that of the edit is
            the plan's, a few times as large.
        average: differences that are averaged at each step, each with noise of its own.
        finish: of the last steps how many are ordinary ones of the solver (n_min).
    """

    strength: float = 0.66
    source_guidance: float = 1.5
    average: int = 1
    finish: int = 0

    def __post_init__(self) -> None:
        require_strength(self.strength)
        require_number("method option source_guidance", self.source_guidance, 0.0, 100.0)
        require_whole("method option average", self.average, 1, 64)
        require_whole("method option finish", self.finish, 0, 1000)

    def walk(self, given: Given) -> Walk:
        levels = given.last(self.strength)
        ordinary = min(self.finish, len(levels) - 1)
        edited: Latent | None = None
        for here, there in pairwise(levels[: len(levels) - ordinary]):
            total = 0.0 * given.source
            for _ in range(self.average):
                source, moved = yield from noised_pair(given, edited, here)
                wanted = yield Denoise(moved, here)
                shown = yield Denoise(source, here, condition=SOURCE)
                total = total + (1 / self.average) * (wanted - shown)
            share = flow_time(there) / flow_time(here)
            edited = (1 - share) * total + (0.0 if edited is None else share * edited)
        if ordinary == 0:
            return given.source + edited
        rest = levels[-ordinary - 1 :]
        _, moved = yield from noised_pair(given, edited, rest[0])
        return (yield from given.solver.walk(moved, rest))


def noised_pair(given: Given, edited: Latent | None, here: Level) -> Walk:
    """The source, and the source with what is ``edited`` so far, at ``here`` with the same fresh
    noise; written down before either is asked about, so that one network call answers both."""
    noise = yield Noise()
    source = yield Combine((given.source, noise), (here.alpha, here.sigma))
    if edited is None:
        return source, source
    return source, (yield Combine((source, edited), (1.0, here.alpha + here.sigma)))
