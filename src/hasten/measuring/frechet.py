"""Fréchet distance between generated and real pictures in features (Heusel et al. 1706.08500).

It is biased by the number n of pictures, to larger values for smaller n: compare at equal n only.
"""

from __future__ import annotations

import math

import torch

from hasten.core.errors import require
from hasten.core.report import Estimate


def frechet(
    mean_a: torch.Tensor, cov_a: torch.Tensor, mean_b: torch.Tensor, cov_b: torch.Tensor
) -> float:
    """|mean_a - mean_b|^2 + tr(cov_a + cov_b - 2 (cov_a cov_b)^(1/2)), in float64.

    The trace of the square root is the sum of the roots of the eigenvalues of
    ``root cov_b root`` with ``root = cov_a^(1/2)``, which is symmetric, so no complex part appears.
    """
    root = _root(cov_a.double())
    inner = torch.linalg.eigvalsh(root @ cov_b.double() @ root)
    cross = inner.clamp(min=0).sqrt().sum()
    apart = (mean_a.double() - mean_b.double()).square().sum()
    return float(apart + cov_a.double().trace() + cov_b.double().trace() - 2 * cross)


def frechet_estimate(
    features: torch.Tensor, mean: torch.Tensor, covariance: torch.Tensor
) -> Estimate:
    """The distance of generated ``features`` (n, d) to real ones of ``mean`` (d,) and
    ``covariance`` (d, d), with the interval of the delta method.

    The interval is about the value at this n: it knows the spread over draws of n generated
    pictures, not the bias of n, and takes the real statistics as given. Compare at equal n only.
    """
    n = len(features)
    value, pulls = _value_and_influence(features, mean, covariance)
    half = 1.96 * float(pulls.std()) / math.sqrt(n)
    return Estimate(value=value, low=max(0.0, value - half), high=value + half, n=n)


def influence(features: torch.Tensor, mean: torch.Tensor, covariance: torch.Tensor) -> torch.Tensor:
    """How fast the distance grows with the weight of each feature (n,), its influence function.

    With mu, S of ``features`` and G = d FD / d S = I - B (B S B)^(-1/2) B, B = covariance^(1/2):
    2 (mu - mean) (x - mu) + (x - mu)' G (x - mu) - tr(G S). Where B S B is singular, the inverse is
    the pseudo-inverse; no feature leaves the space in which it is exact.
    """
    return _value_and_influence(features, mean, covariance)[1]


def _value_and_influence(
    features: torch.Tensor, mean: torch.Tensor, covariance: torch.Tensor
) -> tuple[float, torch.Tensor]:
    middle, spread = statistics(features)
    mean, covariance = mean.double(), covariance.double()
    rows, root = features.double() - middle, _root(covariance)
    values, vectors = torch.linalg.eigh(root @ spread @ root)
    cross = values.clamp(min=0).sqrt().sum()
    apart = (middle - mean).square().sum()
    value = float(apart + spread.trace() + covariance.trace() - 2 * cross)
    least = values.max() * len(values) * torch.finfo(torch.float64).eps
    positive = (values > least) & (values > 0)
    half = root @ (vectors[:, positive] * values[positive] ** -0.25)
    gradient = torch.eye(len(root), dtype=torch.float64) - half @ half.T
    curved = ((rows @ gradient) * rows).sum(1) - (gradient * spread).sum()
    return value, 2 * rows @ (middle - mean) + curved


def statistics(features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean (d,) and covariance (d, d) of features (n, d), float64."""
    require(len(features) > 1, "statistics need two pictures or more.")
    return features.double().mean(0), torch.cov(features.double().T)


def _root(covariance: torch.Tensor) -> torch.Tensor:
    values, vectors = torch.linalg.eigh(covariance)
    return vectors * values.clamp(min=0).sqrt() @ vectors.T
