"""Multiply-accumulates: what a plan costs, whatever the device."""

from __future__ import annotations

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from hasten.core.call import FULL
from hasten.core.lever import Trait
from hasten.core.model import Model
from hasten.core.resolved import Resolved
from hasten.sampling import Sampler


def network_macs(model: Model) -> tuple[int, int]:
    """Multiply-accumulates of one row of ``model``'s network, in its convolutions, matrix products
    and attention: of a full evaluation, and of one with cached features where it is split."""
    like = {"device": model.device, "dtype": model.dtype}
    x = torch.zeros(1, *model.shape, **like)
    inputs: list[object] = [x, torch.ones(1, device=model.device)]
    inputs.append(model.condition(1).to(model.device))
    full, answer = _counted(model.net, inputs)
    if not isinstance(answer, tuple):
        return full, full
    return full, _counted(model.net, [*inputs, *answer[1:]])[0]


def variant_macs(resolved: Resolved) -> dict[str, int] | None:
    """Multiply-accumulates of one row for each variant of the plan's network; None where they
    depend on the data."""
    costs = {FULL: network_macs(resolved.structured)[0]}
    for lever in resolved.levers:
        if Trait.DYNAMIC in lever.traits:
            return None
        costs |= lever.variant_macs(resolved, network_macs)
    return costs


def macs(sampler: Sampler) -> float | None:
    """Multiply-accumulates of one picture; None where their number depends on the data or on the
    order in which evaluations happen, or where the start calls the network as well."""
    resolved, program = sampler.resolved, sampler.program
    before = resolved.start.evaluations(sampler.model.schedule)
    ordered = sampler.executor.in_order and not sampler.executor.adaptive
    if program is None or before != 0 or not ordered:
        return None
    costs = variant_macs(resolved)
    if costs is None:
        return None
    return float(sum(rows * costs[variant] for rows, variant in network_rows(sampler)))


def network_rows(sampler: Sampler) -> list[tuple[int, str]]:
    """For each evaluation how many rows of the network it takes (two with guidance), and the
    variant that answers it."""
    program, scale = sampler.program, sampler.plan.guidance_at
    assert program is not None
    levels = zip(program.levels, program.variants, strict=True)
    return [(1 if scale(level) == 1.0 else 2, variant) for level, variant in levels]


@torch.no_grad()
def _counted(net: torch.nn.Module, inputs: list[object]) -> tuple[int, object]:
    # The plain kernel of attention, which the counter sees as the two products that it is.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        answer = net(*inputs)
    return counter.get_total_flops() // 2, answer
