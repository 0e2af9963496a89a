"""Multiply-accumulates: what a plan costs, whatever the device."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from hasten.core.model import Model
from hasten.core.plan import Plan
from hasten.core.start import starts
from hasten.sampling import Sampler, subject


@dataclasses.dataclass(frozen=True, kw_only=True)
class Costs:
    """Multiply-accumulates of one row of the network: ``full`` and, where features are reused,
    ``part``."""

    full: int
    part: int


def costs(model: Model, plan: Plan) -> Costs:
    """What one row costs in the convolutions, matrix products and attention of the network."""
    net = model.net if plan.reusing is None else plan.reusing.split(model.net)
    like = {"device": model.device, "dtype": model.dtype}
    x = torch.zeros(1, *model.shape, **like)
    given: list[Any] = [x, torch.ones(1, device=model.device), model.conditions(1, None)]
    if given[2] is not None:
        given[2] = given[2].to(model.device)
    full, answer = _counted(net, given)
    if plan.reusing is None or not plan.reusing.static:
        return Costs(full=full, part=full)
    return Costs(full=full, part=_counted(net, [*given, *answer[1:]])[0])


def macs(sampler: Sampler) -> float | None:
    """Multiply-accumulates of one picture; None where their number depends on the data or on the
    order in which questions are answered, or where the start calls the network as well."""
    plan, program = sampler.plan, sampler.program
    decides = plan.reusing is not None and not plan.reusing.static
    before = starts.parse(plan.start).evaluations(sampler.model.schedule)
    ordered = sampler.executor.in_order and not sampler.executor.adaptive
    if program is None or decides or before != 0 or not ordered:
        return None
    each = costs(sampler.model, plan)
    if plan.small is not None:
        known = plan.smaller.model_copy(update={"other_weights": True})  # build has checked them
        each = dataclasses.replace(each, part=costs(subject(sampler.model, known), Plan()).full)
    return float(
        sum(rows * (each.part if part else each.full) for rows, part in rows_asked(sampler))
    )


def rows_asked(sampler: Sampler) -> list[tuple[int, bool]]:
    """For each evaluation how many rows of the network it asks, and whether it reuses features or
    runs the smaller network."""
    program, scale = sampler.program, sampler.plan.guidance_at
    assert program is not None
    levels = zip(program.levels, sampler.plan.small_at or program.reuses, strict=True)
    return [(1 if scale(level) == 1.0 else 2, bool(part)) for level, part in levels]


@torch.no_grad()
def _counted(net: torch.nn.Module, given: list[Any]) -> tuple[int, Any]:
    # The plain kernel of attention, which the counter sees as the two products that it is.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        answer = net(*given)
    return counter.get_total_flops() // 2, answer
