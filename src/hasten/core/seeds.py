"""Random numbers that depend on what they are for, never on what was drawn before."""

from __future__ import annotations

import numpy as np
import torch


def generator(*key: int, device: str | torch.device = "cpu") -> torch.Generator:
    """A fresh generator for ``key`` (seed, picture; or seed, step, rank), the same every time."""
    state = np.random.SeedSequence(key).generate_state(2, np.uint32)
    seed = int(state[0]) << 32 | int(state[1])
    return torch.Generator(device).manual_seed(seed)
