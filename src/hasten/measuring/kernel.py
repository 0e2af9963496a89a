"""Kernel distance between generated and real pictures in features (Binkowski et al. 1801.01401)."""

from __future__ import annotations

import math

import torch

from hasten.core.errors import require
from hasten.core.report import Estimate

BLOCK = 128


def kernel_estimate(
    generated: torch.Tensor, real: torch.Tensor, within_real: torch.Tensor | None = None
) -> Estimate:
    """The unbiased squared MMD of ``generated`` (n, d) and ``real`` (m, d) with the kernel
    (x.y / d + 1)^3, from all pairs, in float64; negative values are chance.

    The value is as the formula gives it; elsewhere it is often shown times 1000. The interval is
    that of the first-order projections of both samples (Hoeffding's of a U-statistic).
    ``within_real`` is :func:`kernel_sums` of ``real``, where that is known.
    """
    x, y = generated.double(), real.double()
    n, m = len(x), len(y)
    require(min(n, m) > 1, "the kernel distance needs two pictures or more of each kind.")
    within_x = kernel_sums(x)
    within_y = kernel_sums(y) if within_real is None else within_real
    rows, columns = _sums(x, y)
    within_x, within_y = within_x / (n - 1), within_y / (m - 1)
    value = float(within_x.mean() + within_y.mean() - 2 * rows.mean() / m)
    pull_x, pull_y = 2 * (within_x - rows / m), 2 * (within_y - columns / n)
    half = 1.96 * math.sqrt(float(pull_x.var() / n + pull_y.var() / m))
    return Estimate(value=value, low=value - half, high=value + half, n=n)


def kernel_sums(points: torch.Tensor) -> torch.Tensor:
    """The kernel of each of ``points`` (n, d) with all others, summed (n,)."""
    x = points.double()
    return _sums(x, x)[0] - (x.square().sum(1) / x.shape[1] + 1) ** 3


def _sums(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The kernel matrix summed over y (n,) and over x (m,), a block of rows at a time."""
    rows, columns = [], torch.zeros(len(y), dtype=torch.float64)
    for block in x.split(BLOCK):
        base = (block @ y.T).div_(x.shape[1]).add_(1)
        kernel = base.square().mul_(base)
        rows.append(kernel.sum(1))
        columns += kernel.sum(0)
    return torch.cat(rows), columns
