"""Labels that are dropped in training, for classifier-free guidance."""

from __future__ import annotations

import torch

from hasten.core.transfer import sent


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
    return labels.masked_fill(drop, null)
