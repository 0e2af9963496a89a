"""Start from pure noise."""

from __future__ import annotations

import dataclasses
from typing import Any

from hasten.core.level import Level
from hasten.core.start import Start, starts


@starts.add("noise")
@dataclasses.dataclass(frozen=True, kw_only=True)
class PureNoise(Start):
    """Normal noise with the standard deviation that x has at the first level."""

    def begin(self, noise: Any, level: Level) -> Any:
        return noise * level.spread
