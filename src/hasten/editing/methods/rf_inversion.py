"""Inversion by a controlled flow (RF-Inversion, Rout et al. 2410.10792)."""

from __future__ import annotations

import dataclasses
from itertools import pairwise

from hasten.core.ask import Denoise
from hasten.core.errors import require_number
from hasten.core.program import Walk
from hasten.editing.method import SOURCE, Given, Method, flow_time, methods


@methods.add("rf-inversion")
@dataclasses.dataclass(frozen=True, kw_only=True)
class RfInversion(Method):
    """The source is led to noise by the network and, by ``gamma``, towards a drawn one (their
    algorithm 1); the way back is led to the source by ``eta`` in the first ``until`` of the steps
    (algorithm 2): there x0 is eta source + (1 - eta) x0."""

    gamma: float = 0.5
    eta: float = 0.9
    until: float = 0.25

    def __post_init__(self) -> None:
        for name in ("gamma", "eta", "until"):
            require_number(f"method option {name}", getattr(self, name), 0.0, 1.0)

    def walk(self, given: Given) -> Walk:
        levels, source = given.levels, given.source
        up = [level for level in reversed(levels) if level.sigma > 0]
        low = flow_time(up[0])
        y = (1 - low) * source + low * given.noise
        for here, there in pairwise(up):
            s, further = flow_time(here), flow_time(there) - flow_time(here)
            x0 = yield Denoise((here.alpha + here.sigma) * y, here, condition=SOURCE)
            own, drawn = (1 / s) * (y - x0), (1 / (1 - s)) * (given.noise - y)
            y = y + further * ((1 - self.gamma) * own + self.gamma * drawn)
        steps = len(levels) - 1
        for number, (here, there) in enumerate(pairwise(levels)):
            x0 = yield Denoise((here.alpha + here.sigma) * y, here)
            eta = self.eta if number < self.until * steps else 0.0
            x0 = (1 - eta) * x0 + eta * source
            share = flow_time(there) / flow_time(here)
            y = share * y + (1 - share) * x0
        return (levels[-1].alpha + levels[-1].sigma) * y
