"""The plans that no other plan beats in cost and in everything that is lost."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

Item = TypeVar("Item")


def front(
    items: Iterable[Item], cost: Callable[[Item], float], *losses: Callable[[Item], float]
) -> list[Item]:
    """The non-dominated ``items``, cheapest first."""
    kept: list[Item] = []
    for item in sorted(items, key=lambda item: (cost(item), *(loss(item) for loss in losses))):
        if not any(all(loss(one) <= loss(item) for loss in losses) for one in kept):
            kept.append(item)
    return kept
