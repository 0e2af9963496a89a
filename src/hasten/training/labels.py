"""The null label: the only place in training and learning that says what "without a label" is."""

from __future__ import annotations

import torch

from hasten.core.transfer import sent


def null_labels(labels: torch.Tensor, null: int) -> torch.Tensor:
    """The null label for each sample of ``labels``."""
    return torch.full_like(labels, null)


def drop_labels(
    labels: torch.Tensor | None,
    null: int | torch.Tensor | None,
    share: float,
    generator: torch.Generator,
) -> torch.Tensor | None:
    """Labels (n,), or the tokens of captions (n, length), with a ``share`` of them replaced by
    ``null``: a label, or the tokens (length,) of no caption (Ho & Salimans 2207.12598)."""
    if labels is None or null is None:
        return labels
    drop = torch.rand(len(labels), generator=generator, device=labels.device) < share
    if isinstance(null, torch.Tensor):
        return torch.where(drop[:, None], sent(null, labels.device), labels)
    return torch.where(drop, null_labels(labels, null), labels)
