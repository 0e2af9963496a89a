"""Other forwards for parts of a network while it runs once: the network itself stays as it is."""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import nn

Run = Callable[[], Any]
"""Calls a network as its owner does."""

Forward = Callable[..., Any]
_LOCK = threading.RLock()  # two that stand in for the same parts would take each other's place


@contextlib.contextmanager
def standing_in(
    parts: Sequence[nn.Module], numbers: Iterable[int], make: Callable[[int, Forward], Forward]
) -> Iterator[None]:
    """Other forwards for the ``parts`` of these ``numbers``, for as long as this lasts, in this
    thread; another that would do the same waits."""
    compiling = torch.compiler.is_compiling()  # in one thread, which knows no locks
    with contextlib.nullcontext() if compiling else _LOCK:
        before = {number: parts[number].__dict__.get("forward") for number in numbers}
        try:
            for number in before:
                part: Any = parts[number]
                other = make(number, part.forward)
                part.forward = other if compiling else _in_this_thread(part.forward, other)
            yield
        finally:
            for number, own in before.items():
                parts[number].__dict__.pop("forward", None)
                if own is not None:
                    parts[number].__dict__["forward"] = own


def _in_this_thread(forward: Forward, other: Forward) -> Forward:
    """``other`` in this thread, ``forward`` in every other one."""
    mine = threading.get_ident()

    @functools.wraps(forward)
    def chosen(*inputs: object, **options: object) -> object:
        return (other if threading.get_ident() == mine else forward)(*inputs, **options)

    return chosen
