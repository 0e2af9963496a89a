"""A grid from a solver's coefficients alone, without a model (2402.17376).

A program's last x is a weighted sum of the network's answers. With an error in each answer that
grows with its noise level, the sum of the weights' sizes times those errors bounds what the result
can be wrong by; the grid is moved to where that bound is least.
"""

from __future__ import annotations

import torch

from hasten.core.coefficient_matrix import CoefficientMatrix
from hasten.core.errors import require_number, require_whole
from hasten.core.level import Array
from hasten.core.noise_schedule import NoiseSchedule
from hasten.core.plan import Plan
from hasten.core.solver import trace
from hasten.learning.programs.solver_coefficients import Differences, SolverCoefficients

ROUNDS, RATE = 300, 0.05  # of Adam; a round takes a few milliseconds


def dmn(schedule: NoiseSchedule, plan: Plan, *, power: float = 1.0) -> Plan:
    """``plan`` on the grid that bounds its solver's error the tightest.

    Args:
        power: an answer's error grows as (sigma / alpha) ** power.

    Raises:
        UserError: two steps or more are needed, or the solver has no matrix.
    """
    solver, steps = plan.parts.solver, plan.parts.steps or 0
    require_whole("steps", steps, 2, 1000)
    require_number("power", power, 0.0, 4.0)
    coefficients = SolverCoefficients(solver=solver, schedule=schedule)
    top, low = coefficients.ends

    def bound(inner: Array) -> Array:
        """The bound as a function of the half log-SNRs of all levels but the first."""
        levels = [
            coefficients.level(top),
            *(coefficients.level(place) for place in inner),
            schedule.at(schedule.low),
        ]
        last = CoefficientMatrix.of(trace(solver, levels)).matrix[-1, 1:]
        errors = [level.ratio**power if level.alpha > 0 else 80.0**power for level in levels[:-1]]
        return abs(last * errors).sum(keepdims=True)

    logits = torch.zeros(steps, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([logits], lr=RATE)
    best, chosen = float("inf"), _inner(logits, top, low).detach()
    for _ in range(ROUNDS):
        inner = _inner(logits, top, low)
        loss = Differences.apply(inner, bound).log().sum()
        value = float(loss.detach())
        if value < best:
            best, chosen = value, inner.detach().clone()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    positions = [float(f"{schedule.position(place):.6g}") for place in chosen.tolist()]
    return plan.model_copy(update={"grid": f"given(at={(float(schedule.noisy), *positions)})"})


def _inner(logits: torch.Tensor, top: float, low: float) -> torch.Tensor:
    """The levels between the ends: gaps are shares of the way (softmax), the last ends at low."""
    return top + (low - top) * torch.cumsum(torch.softmax(logits, 0), 0)[:-1]
