"""The plans that no other plan beats in cost and in everything that is lost."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

ItemT = TypeVar("ItemT")


def front(
    items: Iterable[ItemT], cost: Callable[[ItemT], float], *losses: Callable[[ItemT], float]
) -> list[ItemT]:
    """The non-dominated ``items``, cheapest first."""
    best: list[ItemT] = []
    for item in sorted(items, key=lambda item: (cost(item), *(loss(item) for loss in losses))):
        if not any(all(loss(cheaper) <= loss(item) for loss in losses) for cheaper in best):
            best.append(item)
    return best
