"""What a tuner can ask within its budget, by how long an evaluation takes here."""

from __future__ import annotations

import dataclasses
from typing import Any

from hasten.core.errors import UserError
from hasten.core.plan import Plan

CONVERGED = ((64, 150), (32, 150), (16, 100), (8, 100), (8, 50), (4, 50))  # pictures, evaluations
SHARE = 0.15  # of the budget, for making them
LOOKS = 8  # of these pictures a first look at a plan takes an eighth, 2 at least
SIZES, A_CALL_S = (64, 16, 4), 1.0  # batches that a network is timed with, and for how long at most
AT_ONCE_S, EVALUATIONS = 5.0, 10  # what a batch of such a plan may take when throughput is measured


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pace:
    """``budget`` seconds on a model whose evaluation takes ``each`` seconds a picture where many
    are made at a time, and ``call`` seconds for one batch of the size that is tuned for; both in
    the engine that stands for float32."""

    budget: float
    each: float
    call: float

    @property
    def is_quick(self) -> bool:
        """Whether the converged solution can be of as many pictures as one would want."""
        n, steps = CONVERGED[0]
        return n * steps * self.each <= SHARE * self.budget

    @property
    def converged(self) -> tuple[int, int]:
        """Of how many pictures the converged solution is made, with how many evaluations.

        Raises:
            UserError: not even of the fewest.
        """
        for n, steps in CONVERGED:
            if n * steps * self.each <= SHARE * self.budget:
                return n, steps
        n, steps = CONVERGED[-1]
        took = n * steps * self.each
        raise UserError(
            f"an evaluation of a picture takes {self.each:.2g} s here, so the converged solution "
            f"of {n} pictures alone takes {took / 60:.0f} minutes; give --minutes "
            f"{took / SHARE / 60 * 1.1 + 1:.0f} or more."
        )

    @property
    def few(self) -> int:
        """Pictures of a first look."""
        return max(2, self.converged[0] // LOOKS)

    def at_once(self, most: int) -> int:
        """How many pictures at a time throughput is measured with, at most ``most``."""
        sizes = [size for size in SIZES if size <= most]
        able = (size for size in sizes if size * self.each * EVALUATIONS <= AT_ONCE_S)
        return next(able, 1)


def paced(run: Any, exact: dict[str, Any], guidance: float, batch: int) -> Pace:
    """The pace of a tuner's ``run``, by what calls take in the engine of the row ``exact``: of one
    batch, and of many pictures at a time where that alone would leave too little time for a
    converged solution."""
    call = exact["median"] / 1000
    pace = Pace(budget=run.minutes * 60 - run.ending, each=call / batch, call=call)
    plan = Plan(guidance=guidance).model_copy(update={"engine": exact["engine"]}).model_dump()
    for size in SIZES[::-1]:
        fits = batch < size <= run.lab.together and size * pace.each <= A_CALL_S
        if fits and not pace.is_quick:
            many = run.ask("call", f"{size} pictures at a time", plan=plan, batch=size)
            if many is not None:
                pace = dataclasses.replace(pace, each=many["median"] / 1000 / size)
    return pace
