"""The plans that no other plan beats in both cost and drift."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

Item = TypeVar("Item")


def front(
    items: Iterable[Item], cost: Callable[[Item], float], loss: Callable[[Item], float]
) -> list[Item]:
    """The non-dominated ``items``, cheapest first."""
    best = float("inf")
    kept: list[Item] = []
    for item in sorted(items, key=lambda item: (cost(item), loss(item))):
        if loss(item) < best:
            kept.append(item)
            best = loss(item)
    return kept
