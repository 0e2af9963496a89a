"""A lock that is given to whoever has waited longest."""

from __future__ import annotations

import threading
from collections import deque
from types import TracebackType


class Turns:
    """``with turns:`` in any thread; a thread that lets go and asks again waits behind the others,
    which an ordinary lock does not promise."""

    def __init__(self) -> None:
        self._lock, self._waiting = threading.Lock(), deque[threading.Event]()
        self._taken = False

    def __call__(self) -> Turns:
        return self

    def __enter__(self) -> None:
        with self._lock:
            if not self._taken:
                self._taken = True
                return
            mine = threading.Event()
            self._waiting.append(mine)
        mine.wait()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._lock:
            if self._waiting:
                self._waiting.popleft().set()
            else:
                self._taken = False
