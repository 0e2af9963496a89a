"""Where in a Program x0 becomes known, for the executors that may stop there."""

from __future__ import annotations

from itertools import zip_longest

from hasten.core.ask import Clip, Denoise, DenoiseWithVariance
from hasten.core.errors import require
from hasten.core.level import Level
from hasten.core.program import Program


def known_x0(program: Program, name: str) -> dict[int, Level]:
    """The rows whose first answer is x0 as the solver uses it (after a clip, where there is one),
    and the level of each.

    Raises:
        UserError: executor ``name`` finds calls that do not answer x0.
    """
    out: dict[int, Level] = {}
    for number, (row, after) in enumerate(zip_longest(program.rows, program.rows[1:])):
        if isinstance(row.ask, (Denoise, DenoiseWithVariance)):
            then = None if after is None else after.ask
            clipped = isinstance(then, Clip) and then.x == row.out[0]
            out[number + clipped] = row.ask.level
    calls = sum(row.ask.calls for row in program.rows)
    require(
        len(out) == calls > 0,
        f"executor {name!r} stops at a picture, but this program's calls do not answer x0; use "
        "'sequential'.",
    )
    return out
