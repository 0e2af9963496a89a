"""What every grid promises about its positions."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from hasten.core.errors import require
from hasten.core.level import Discrete, Path


def checked(name: str, path: Path, positions: Sequence[float]) -> list[float]:
    """``positions``, which must fall strictly and lie where the network was trained.

    Raises:
        UserError: they do not.
    """
    places = [float(place) for place in positions]
    for one, other in pairwise(places):
        require(
            one > other,
            f"grid {name!r} puts position {other:g} after {one:g}; positions must fall. "
            "Use fewer steps or another grid.",
        )
    slack = 1e-9 * max(abs(path.noisy), 1e-3)
    require(
        path.low - slack <= places[-1] and places[0] <= path.noisy + slack,
        f"grid {name!r} visits {places[0]:g} to {places[-1]:g}; this path's positions lie between "
        f"{path.noisy:g} and {path.low:g}.",
    )
    return [min(max(place, path.low), path.noisy) for place in places]


def entries(path: Path) -> int:
    """How many levels the path's table has; 0 where time is continuous."""
    return len(path.alphas_cumprod) if isinstance(path, Discrete) else 0
