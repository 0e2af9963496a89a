"""A method of editing: a walk from a source to its edit, traced into a Program as solvers are.

A walk asks about two conditions: ``main``, what the edit should show, and ``source``, what the
source shows. Several methods are published for flow models. Any other becomes one by scaling:
x / (alpha + sigma) = (1 - s) x0 + s noise with s = sigma / (alpha + sigma).
"""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from hasten.core.ask import MAIN, Blend, Denoise, Latent
from hasten.core.errors import require, require_number
from hasten.core.level import Level
from hasten.core.program import Program, Walk, symbol, trace_walk
from hasten.core.registry import Registry
from hasten.core.solver import Solver

SOURCE, MASK = "source", "mask"  # inputs of a program, beside its noise x; SOURCE: a condition too


@dataclasses.dataclass(frozen=True, kw_only=True)
class Given:
    """What a method begins with, as latents.

    Attributes:
        noise: standard normal; source: what is edited, in the network's space.
        solver, levels: of the plan; levels noisy to clean.
    """

    noise: Latent
    source: Latent
    solver: Solver
    levels: tuple[Level, ...]

    def last(self, strength: float) -> tuple[Level, ...]:
        """The levels of the last ``strength`` of the steps, one step at least."""
        steps = len(self.levels) - 1
        return self.levels[steps - max(1, min(steps, math.floor(steps * strength + 1e-9))) :]

    def noised(self, level: Level) -> Latent:
        """The source at ``level``, with the noise."""
        return level.alpha * self.source + level.sigma * self.noise


class Method(ABC):
    """Parts are frozen keyword-only dataclasses: the part is its own configuration.

    ``needs_mask``: it edits a region that has to be named. ``source_guidance``: the guidance scale
    of what it asks about the source. ``guides``: it combines conditions itself, so the plan's
    guidance is left out.
    """

    part_name: ClassVar[str]
    needs_mask: ClassVar[bool] = False
    guides: ClassVar[bool] = False
    source_guidance: float = 1.0

    @abstractmethod
    def walk(self, given: Given) -> Walk:
        """From the source to the edit, which is returned."""

    def program(self, solver: Solver, levels: Sequence[Level], *, masked: bool = False) -> Program:
        """The walk as a Program whose inputs are the noise ``x``, ``source`` and, where it is
        ``masked``, ``mask``: outside that the source is kept.

        Raises:
            UserError: a mask that is missing.
        """
        require(
            masked or not self.needs_mask,
            f"method {self.part_name!r} fills in the masked region of a picture; give a mask, or "
            "choose another method for a clip.",
        )
        given = Given(noise=symbol(), source=symbol(SOURCE), solver=solver, levels=tuple(levels))
        walk = self.walk(given)
        inputs = ("x", SOURCE, MASK) if masked else ("x", SOURCE)
        return trace_walk(_kept_outside(walk, given.source) if masked else walk, levels[0], inputs)


methods: Registry[Method] = Registry("editing method", "hasten.editing.methods")


def flow_time(level: Level) -> float:
    """s of ``level``: from 0, clean, to 1, noise alone."""
    return level.sigma / (level.alpha + level.sigma)


def require_strength(strength: object) -> None:
    """From little above 0, where nothing is changed, to 1, where nothing is left."""
    require_number("method option strength", strength, 1e-3, 1.0)


def _kept_outside(walk: Walk, source: Latent) -> Walk:
    """``walk``, with x0 of the edit replaced by the source outside the mask: what is known follows
    its own noise, whichever solver it is (RePaint 2201.09865, eq. 8)."""
    answer, mask = None, symbol(MASK)
    while True:
        try:
            ask = walk.send(answer)
        except StopIteration as stop:
            return stop.value
        answer = yield ask
        if isinstance(ask, Denoise) and ask.condition == MAIN:
            answer = yield Blend(answer, source, mask)
