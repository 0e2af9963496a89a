"""Which pictures a training step sees."""

from __future__ import annotations

import functools

import numpy as np


def order(seed: int, step: int, batch: int, n: int) -> np.ndarray:
    """Which pictures step ``step`` sees: consecutive pieces of one shuffle an epoch.

    A pure function of its arguments, so that a resumed run sees what the first would have seen.
    """
    first = step * batch
    places = np.arange(first, first + batch)
    out = np.empty(batch, np.int64)
    for epoch in range(first // n, (first + batch - 1) // n + 1):
        here = places // n == epoch
        out[here] = _shuffle(seed, epoch, n)[places[here] % n]
    return out


@functools.lru_cache(maxsize=2)
def _shuffle(seed: int, epoch: int, n: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch)).permutation(n)
