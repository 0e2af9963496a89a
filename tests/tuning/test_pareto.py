"""The plans that nothing beats."""

from __future__ import annotations

from hasten.tuning.pareto import front


def test_the_front_holds_what_nothing_beats():
    items = [(1, 5.0), (2, 3.0), (2, 4.0), (3, 3.0), (4, 1.0), (1, 6.0)]
    best = front(items, lambda item: item[0], lambda item: item[1])
    assert best == [(1, 5.0), (2, 3.0), (4, 1.0)]
    items = [(1, 5.0, 0.1), (2, 6.0, 0.2), (3, 6.0, 0.0), (4, 5.0, 0.1), (5, 1.0, 0.3)]
    best = front(items, *(lambda item, i=i: item[i] for i in range(3)))
    assert best == [(1, 5.0, 0.1), (3, 6.0, 0.0), (5, 1.0, 0.3)]
