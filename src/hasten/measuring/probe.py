"""How fast this machine multiplies matrices: what a network call is held against."""

from __future__ import annotations

import functools

import torch

from hasten.measuring.timer import once

SIZE, REPEATS = 1024, 5


def matmul_gflops(precision: str, device: torch.device | str = "cpu") -> float | None:
    """Billions of operations a second of a product of two matrices of 1024 x 1024 in torch, the
    fastest of five, with as many threads as torch has.

    Args:
        precision: a dtype's name, of which only the first word counts.

    Returns:
        None for a dtype in which torch multiplies no matrices here.
    """
    dtype = getattr(torch, precision.partition(",")[0].strip(), None)
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        return None
    try:
        a = torch.ones(SIZE, SIZE, dtype=dtype, device=device)
        call = functools.partial(torch.mm, a, a)
        once(call, device)
        seconds = min(once(call, device) for _ in range(REPEATS))
    except RuntimeError:
        return None
    return 2e-9 * SIZE**3 / seconds
