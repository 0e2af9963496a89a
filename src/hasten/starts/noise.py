"""Start from pure noise."""

from __future__ import annotations

import dataclasses

from hasten.core.model import Model
from hasten.core.start import Begin, LatentsOf, Start, starts


@starts.add("noise")
@dataclasses.dataclass(frozen=True, kw_only=True)
class PureNoise(Start):
    """Normal noise with the standard deviation that x has at the first level."""

    def prepare(self, model: Model, other: LatentsOf) -> Begin:
        return lambda noise, level, condition: noise * level.spread
