"""The null label: the only place in training and learning that says what "without a label" is."""

from __future__ import annotations

import torch


def null_labels(labels: torch.Tensor, null: int) -> torch.Tensor:
    """The null label for each sample of ``labels``."""
    return torch.full_like(labels, null)


def drop_labels(
    labels: torch.Tensor | None, null: int | None, share: float, generator: torch.Generator
) -> torch.Tensor | None:
    """Labels with a ``share`` of them replaced by ``null`` (Ho & Salimans 2207.12598)."""
    if labels is None or null is None:
        return labels
    drop = torch.rand(len(labels), generator=generator, device=labels.device) < share
    return torch.where(drop, null_labels(labels, null), labels)
