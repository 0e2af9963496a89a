"""Fréchet distance between generated and real pictures in features (Heusel et al. 1706.08500)."""

from __future__ import annotations

import torch

from hasten.core.errors import require


def frechet(
    mean_a: torch.Tensor, cov_a: torch.Tensor, mean_b: torch.Tensor, cov_b: torch.Tensor
) -> float:
    """|mean_a - mean_b|^2 + tr(cov_a + cov_b - 2 (cov_a cov_b)^(1/2)), in float64.

    The trace of the square root is the sum of the roots of the eigenvalues of
    ``root cov_b root`` with ``root = cov_a^(1/2)``, which is symmetric, so no complex part appears.
    """
    values, vectors = torch.linalg.eigh(cov_a.double())
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    inner = torch.linalg.eigvalsh(root @ cov_b.double() @ root)
    cross = inner.clamp(min=0).sqrt().sum()
    apart = (mean_a.double() - mean_b.double()).square().sum()
    return float(apart + cov_a.double().trace() + cov_b.double().trace() - 2 * cross)


def statistics(features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean (d,) and covariance (d, d) of features (n, d), float64."""
    require(len(features) > 1, "statistics need two pictures or more.")
    return features.double().mean(0), torch.cov(features.double().T)
