"""95% intervals of a mean, honest about few values."""

from __future__ import annotations

import math

import torch

STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)
"""97.5% quantiles of Student's t distribution with 1, 2, ... degrees of freedom."""
NORMAL = 1.96


def quantile(n: int) -> float:
    """How many standard errors the 95% interval of a mean of ``n`` values is wide on each side:
    infinite for one value, 3.2 for four, 2.1 for sixteen, 1.96 for very many (Cornish-Fisher
    expansion of Student's t to second order beyond ten degrees of freedom)."""
    freedom = n - 1
    if freedom < 1:
        return math.inf
    if freedom <= len(STUDENT):
        return STUDENT[freedom - 1]
    z = NORMAL
    first = (z**3 + z) / (4 * freedom)
    return z + first + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)


def mean_interval(values: torch.Tensor) -> tuple[float, float, float]:
    """Mean of ``values`` (n,), and the bounds of its 95% interval; infinite bounds for n = 1."""
    n, mean = len(values), float(values.mean())
    half = quantile(n) * float(values.std()) / math.sqrt(n) if n > 1 else math.inf
    return mean, mean - half, mean + half
