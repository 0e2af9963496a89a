"""Other forwards for parts of a network while it runs once: the network itself stays as it is."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from torch import nn

Run = Callable[[], Any]
"""Calls a network as its owner does."""

Forward = Callable[..., Any]


@contextlib.contextmanager
def standing_in(
    parts: Sequence[nn.Module], numbers: Iterable[int], make: Callable[[int, Forward], Forward]
) -> Iterator[None]:
    """Other forwards for the ``parts`` of these ``numbers``, for as long as this lasts."""
    before = {number: parts[number].__dict__.get("forward") for number in numbers}
    try:
        for number in before:
            part: Any = parts[number]
            part.forward = make(number, part.forward)
        yield
    finally:
        for number, own in before.items():
            parts[number].__dict__.pop("forward", None)
            if own is not None:
                parts[number].__dict__["forward"] = own
