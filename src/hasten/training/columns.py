"""A number for each sample, shaped so that it broadcasts over latents of any rank."""

from __future__ import annotations

import numpy as np
import torch

from hasten.core.level import Array
from hasten.core.transfer import sent


def columns(x: torch.Tensor, *values: Array | float) -> list[torch.Tensor]:
    """A number for each sample, or one for all, as float32 (n, 1, ..., 1) of the rank of ``x`` and
    on its device."""
    rows = [np.broadcast_to(np.asarray(value, np.float32), len(x)) for value in values]
    together = sent(torch.from_numpy(np.stack(rows)), x.device)
    return [column(row, x) for row in together]


def column(values: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """``values`` (n,) as (n, 1, ..., 1) of the rank of ``x``."""
    return values.view(-1, *[1] * (x.ndim - 1))
