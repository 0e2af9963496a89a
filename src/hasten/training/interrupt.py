"""Ctrl-C during a training: the step that runs is finished and kept, so nothing is lost."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from types import FrameType

Handler = Callable[[int, FrameType | None], object] | int
SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """Somebody asked a training to stop, and it was kept; says how it goes on."""


@contextlib.contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """Gives a function that says whether Ctrl-C was pressed, or the process told to end. A second
    time ends it at once. In a thread of its own, a training hears of neither."""
    asked: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    # None stands for a handler of the program that Python runs in, which is not ours to replace.
    before = {number: handler for number, handler in handlers.items() if handler is not None}

    def ask(number: int, _: FrameType | None) -> None:
        asked.append(number)
        _restore(before)

    for number, handler in before.items():
        if handler is not signal.SIG_IGN:  # started so that it outlives its terminal
            signal.signal(number, ask)
    try:
        yield lambda: bool(asked)
    finally:
        _restore(before)


def _restore(handlers: Mapping[signal.Signals, Handler]) -> None:
    for number, handler in handlers.items():
        signal.signal(number, handler)
