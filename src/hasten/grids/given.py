"""The positions the user lists."""

from __future__ import annotations

import dataclasses

from hasten.core.grid import Grid, grids


@grids.add("given")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Given(Grid):
    """``positions`` in the path's own unit, falling: one for each step."""

    positions: tuple[float, ...] = ()  # type: ignore[assignment]
