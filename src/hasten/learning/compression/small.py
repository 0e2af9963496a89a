"""At which evaluations of a plan a smaller network costs nothing: measured one by one."""

from __future__ import annotations

import dataclasses

import torch

from hasten.core.errors import require, require_number, require_whole
from hasten.core.model import Model
from hasten.core.plan import Plan
from hasten.core.random_streams import Seed
from hasten.levers.small import Small
from hasten.measuring.macs import macs
from hasten.sampling import build


@dataclasses.dataclass(frozen=True, kw_only=True)
class Narrowed:
    """What was found.

    Attributes:
        at: for each evaluation 1 where the small network answers it.
        plan: the plan with the lever ``small``.
        ode_error: root mean square distance (pixels in 0 to 1) of its pictures from those of the
            whole network; ``alone``: of each evaluation, where it alone is narrow; of ``n``
            pictures.
        macs: multiply-accumulates, as a share of those of the whole network.
    """

    plan: Plan
    ode_error: float
    at: tuple[int, ...]
    alone: tuple[float, ...]
    n: int
    macs: float


def learn_narrow(
    model: Model, plan: Plan, small: str, *, ode_error: float, n: int = 16
) -> Narrowed:
    """As many evaluations of ``plan`` for the network of the folder ``small`` as an ODE error of
    ``ode_error`` leaves room for, the cheapest ones first; errors are taken to add in squares, and
    the column that this gives is measured, and shortened while its error is too large.

    Raises:
        UserError: a folder that is no student of the model, a plan without a Program, an option out
            of range.
    """
    require_number("ode_error", ode_error, 1e-9, 1e3)
    require_whole("n", n, 1, 100_000)
    require(plan.lever("small") is None, "the plan has a small network already; drop small.")
    whole = build(model, plan)
    require(
        whole.program is not None and not plan.stochastic,
        f"solver {plan.solver!r} takes no fixed steps or draws noise, so what one evaluation "
        "costs is not told apart; use another solver.",
    )
    assert whole.program is not None
    count = whole.program.evaluations
    condition = model.labels_in_turn(n)
    wanted = whole.sample(n, seed=Seed.SMALL_NETWORK, condition=condition)

    def with_column(at: tuple[int, ...]) -> Plan:
        return plan.with_lever(Small(folder=small, at=at))

    def apart(at: tuple[int, ...]) -> float:
        pictures = build(model, with_column(at)).sample(
            n, seed=Seed.SMALL_NETWORK, condition=condition
        )
        return float((pictures - wanted).square().mean().sqrt())

    alone = [apart(tuple(int(i == k) for i in range(count))) for k in range(count)]
    order = sorted(range(count), key=lambda k: alone[k])
    squares = torch.tensor([alone[k] ** 2 for k in order], dtype=torch.float64).cumsum(0)
    taken = int((squares <= ode_error**2).sum())
    measured, at = 0.0, (0,) * count
    while taken > 0:
        at = tuple(int(k in order[:taken]) for k in range(count))
        measured = apart(at)
        if measured <= ode_error:
            break
        taken, measured, at = taken - 1, 0.0, (0,) * count
    chosen = with_column(at)
    before, after = macs(whole), macs(build(model, chosen))
    share = after / before if before and after else 1.0
    return Narrowed(plan=chosen, at=at, ode_error=measured, alone=tuple(alone), n=n, macs=share)
