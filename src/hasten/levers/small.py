"""A smaller network at the evaluations where that costs nothing: width that follows the timestep,
by a column of the Program (as OMS-DPM chooses among models of several sizes, 2306.08860)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from hasten.core.engine import Prepared
from hasten.core.errors import require

NEAR = 1e-3  # how far a time may be from one of the plan's, in the network's unit


class Narrowed(Prepared):
    """``nets[row(t)]`` answers at time t; a batch at several times is answered in parts."""

    def __init__(self, nets: Sequence[Prepared], row: Callable[[float], int]) -> None:
        self.nets, self._row = list(nets), row
        self.precision, self.versions = nets[0].precision, nets[0].versions
        self.weights_mb = round(sum(net.weights_mb for net in nets), 3)

    def __call__(
        self, x: torch.Tensor, t: torch.Tensor, cond: Any = None, *kept: torch.Tensor
    ) -> Any:
        rows = torch.tensor([self._row(time) for time in t.tolist()])
        if bool((rows == rows[0]).all()):
            return self.nets[int(rows[0])](x, t, cond)
        out = torch.empty_like(x)
        for row in rows.unique().tolist():
            mine = (rows == row).nonzero().flatten().to(x.device)
            label = None if cond is None else cond[mine]
            out[mine] = self.nets[row](x[mine], t[mine], label)
        return out


def narrowed(
    whole: Prepared, small: Prepared, times: Sequence[float], at: Sequence[int]
) -> Narrowed:
    """``small`` at the times whose entry of ``at`` is 1, ``whole`` at the others.

    Args:
        times: (evaluations,) told to the network in the order of the plan.

    Raises:
        UserError: ``at`` has not one entry for each, or asks for both at one time.
    """
    require(
        len(at) == len(times),
        f"plan field 'small_at' has {len(at)} entries, but the plan makes {len(times)} "
        "evaluations; give one for each.",
    )
    column = dict(zip(times, at, strict=True))
    clash = [time for time, one in zip(times, at, strict=True) if column[time] != one]
    require(
        not clash,
        f"plan field 'small_at' asks for both networks at time {clash[:1]}; two evaluations at one "
        "time take one.",
    )

    def row(time: float) -> int:
        nearest = min(column, key=lambda one: abs(one - time))
        require(
            abs(nearest - time) <= NEAR * max(1.0, abs(time)),
            f"this network was prepared for the times of another plan, and is asked at {time:g}; "
            "prepare it for this plan.",
        )
        return column[nearest]

    return Narrowed([whole, small], row)
