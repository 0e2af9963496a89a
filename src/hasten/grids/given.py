"""The positions the user lists."""

from __future__ import annotations

import dataclasses

from hasten.core.errors import require, require_number
from hasten.core.grid import Grid, grids
from hasten.core.level import Level
from hasten.core.noise_schedule import NoiseSchedule
from hasten.grids.checks import checked


@grids.add("given")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Given(Grid):
    """Positions listed in ``at``, in the schedule's own unit, falling: one for each step.

    ``told``: the times the network is given there, where they are not the schedule's own.
    """

    title = "levels of its own"

    at: tuple[float, ...]
    told: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        listed = isinstance(self.at, (tuple, list)) and len(self.at) > 0
        require(listed, f"grid option at is {self.at!r}; give the positions as (999, 500, 1).")
        for place in self.at:
            require_number("grid option at", place, -1e9, 1e9)
        listed = isinstance(self.told, (tuple, list)) and len(self.told) in (0, len(self.at))
        require(listed, f"grid option told is {self.told!r}; give a time for each position of at.")
        for time in self.told:
            require_number("grid option told", time, -1e9, 1e9)
        object.__setattr__(self, "at", tuple(float(place) for place in self.at))
        object.__setattr__(self, "told", tuple(float(time) for time in self.told))

    def positions(self, schedule: NoiseSchedule, steps: int) -> list[float]:
        count = len(self.at)
        require(
            steps == count,
            f"grid 'given' lists {count} positions and steps is {steps}; set steps={count}, "
            "or list as many positions as steps.",
        )
        return checked("given", schedule, self.at)

    def levels(self, schedule: NoiseSchedule, steps: int) -> tuple[Level, ...]:
        levels = super().levels(schedule, steps)
        if not self.told:
            return levels
        pairs = zip(levels, self.told, strict=False)
        return (*(dataclasses.replace(level, t=t) for level, t in pairs), levels[-1])
