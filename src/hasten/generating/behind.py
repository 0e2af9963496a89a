"""Work that is done in a thread while the next batch is computed."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

MOST = 2  # batches that wait to be encoded


class Behind:
    """Calls functions in order in one thread. At most :data:`MOST` of them wait; their errors are
    raised by the next :meth:`put`, or at the end."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="hasten-encode")
        self._pending: deque[Future[None]] = deque()

    def put(self, call: Callable[[], None]) -> None:
        """Call it after those before."""
        while len(self._pending) >= MOST:
            self._pending.popleft().result()
        self._pending.append(self._thread.submit(call))

    def __enter__(self) -> Behind:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self._thread.shutdown(wait=True, cancel_futures=error is not None)
        if error is None:
            for future in self._pending:
                future.result()
