"""Improved precision and recall of generated pictures (Kynkaanniemi et al. 1904.06991).

A set's manifold is the union of balls around its features, each reaching to its k-th neighbour.
Precision is the share of generated pictures on the real manifold, recall the share of real ones
on the generated manifold; both depend on n, so compare at equal n only.
"""

from __future__ import annotations

import math

import torch

from hasten.core.errors import require
from hasten.core.report import Estimate
from hasten.data.rows import evenly_spread

BLOCK = 128
NEIGHBOURS = 3


def precision_recall(
    generated: torch.Tensor, real: torch.Tensor, neighbours: int = NEIGHBOURS
) -> tuple[Estimate, Estimate]:
    """Precision and recall of ``generated`` (n, d) against ``real`` (m, d).

    Both sets are cut to the smaller one's size, as in the paper, the larger at evenly spread rows.
    The intervals are Wilson's for a share, with the other set's manifold taken as given.
    """
    n = min(len(generated), len(real))
    require(
        n > neighbours, f"precision and recall need more than {neighbours} pictures of each kind."
    )
    generated, real = _cut(generated, n), _cut(real, n)
    middle = real.mean(0)
    generated, real = generated - middle, real - middle
    # Rounding of the squared distances must not part equal pictures.
    slack = 1e-12 * float(torch.cat([generated, real]).square().sum(1).max())
    precision = _covered(generated, real, _radii(real, neighbours) + slack)
    recall = _covered(real, generated, _radii(generated, neighbours) + slack)
    return wilson(int(precision.sum()), n), wilson(int(recall.sum()), n)


def wilson(hits: int, n: int) -> Estimate:
    """The share ``hits / n`` with Wilson's 95% interval."""
    z, share = 1.96, hits / n
    width = 1 + z * z / n
    middle = (share + z * z / (2 * n)) / width
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / width
    low, high = min(share, max(0.0, middle - half)), max(share, min(1.0, middle + half))
    return Estimate(value=share, low=low, high=high, n=n)


def _cut(features: torch.Tensor, n: int) -> torch.Tensor:
    return features[torch.from_numpy(evenly_spread(len(features), n))].double()


def _radii(points: torch.Tensor, neighbours: int) -> torch.Tensor:
    """The squared distance of each point to its ``neighbours``-th other point."""
    radii = []
    for start, block in zip(range(0, len(points), BLOCK), points.split(BLOCK), strict=True):
        apart = _apart(block, points)
        own = torch.arange(len(block))
        apart[own, start + own] = math.inf
        radii.append(apart.topk(neighbours, dim=1, largest=False).values.amax(1))
    return torch.cat(radii)


def _covered(points: torch.Tensor, centres: torch.Tensor, radii: torch.Tensor) -> torch.Tensor:
    """Which of ``points`` lie in a ball around one of ``centres``."""
    parts = [(_apart(block, centres) <= radii).any(1) for block in points.split(BLOCK)]
    return torch.cat(parts)


def _apart(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Squared distances (len(a), len(b))."""
    sizes = a.square().sum(1, keepdim=True) + b.square().sum(1)
    return torch.addmm(sizes, a, b.T, alpha=-2)
