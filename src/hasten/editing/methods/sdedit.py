"""SDEdit (Meng et al. 2108.01073): noise the source, then denoise it."""

from __future__ import annotations

import dataclasses

from hasten.core.program import Walk
from hasten.editing.method import Given, Method, methods, require_strength


@methods.add("sdedit")
@dataclasses.dataclass(frozen=True, kw_only=True)
class SDEdit(Method):
    """Image to image, video to video: the last ``strength`` of the steps, from the source with the
    noise of their first level. Any solver."""

    strength: float = 0.8

    def __post_init__(self) -> None:
        require_strength(self.strength)

    def walk(self, given: Given) -> Walk:
        levels = given.last(self.strength)
        return (yield from given.solver.walk(given.noised(levels[0]), levels))
