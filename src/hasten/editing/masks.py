"""Where a picture may change: masks from people, and from two predictions that differ."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from hasten.core.ask import Denoise
from hasten.core.errors import require
from hasten.core.level import Level
from hasten.core.session import Session
from hasten.editing.method import SOURCE

NARROW = 3  # pixels of a box that smooths the difference of two predictions


def pixel_mask(mask: torch.Tensor, pictures: torch.Tensor) -> torch.Tensor:
    """``mask``, (h, w), (n, h, w) or (n, 1, h, w), Booleans or numbers from 0 to 1, as floats
    (n, 1, h, w) for ``pictures`` (n, c, h, w); 1 is where they may change.

    Raises:
        UserError: another size, or another number of masks than one or n.
    """
    n, _, height, width = pictures.shape
    shape = tuple(mask.shape)
    wide = (
        mask[:, None] if mask.ndim == 3 else mask.expand(1, 1, *shape) if mask.ndim == 2 else mask
    )
    fits = tuple(wide.shape[1:]) == (1, height, width) and len(wide) in (1, n)
    require(
        fits,
        f"mask has the shape {shape}; for {n} pictures of {height}x{width} it takes "
        f"({height}, {width}) or ({n}, {height}, {width}).",
    )
    wide = wide.float()
    low, high = float(wide.min()), float(wide.max())
    require(
        0.0 <= low <= high <= 1.0,
        f"mask lies from {low:g} to {high:g}; it takes 0 to 1, 1 for what may change.",
    )
    require(high > 0, "mask is empty, so nothing may change; mark a region.")
    return wide.expand(n, 1, height, width)


def latent_mask(mask: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """``mask`` (n, 1, h, w) in the size of latents of ``shape`` (c, h, w): what touches a latent
    that may change counts whole."""
    small = F.adaptive_max_pool2d(mask, shape[-2:])
    return small.expand(-1, shape[0], -1, -1).contiguous()


def difference_mask(
    session: Session, source: torch.Tensor, level: Level, noises: torch.Tensor, threshold: float
) -> torch.Tensor:
    """Where the answers about the edit and about the source differ at ``level``, (n, 1, h, w) of
    0 and 1: the mean over ``noises`` (k, n, c, h, w), in shares of the largest difference of each
    picture (DiffEdit, Couairon et al. 2210.11427, step 1).

    Args:
        session: knows both conditions; source: latents (n, c, h, w).
    """
    asks = [Denoise("x", level), Denoise("x", level, condition=SOURCE)]
    total = torch.zeros_like(source[:, :1])
    for noise in noises:
        x = level.alpha * source + level.sigma * noise
        wanted, shown = session.denoise_many([x, x], asks)
        total += (wanted - shown).abs().mean(dim=1, keepdim=True)
    smooth = F.avg_pool2d(total, NARROW, 1, NARROW // 2, count_include_pad=False)
    return (smooth > threshold * smooth.amax(dim=(1, 2, 3), keepdim=True)).float()
