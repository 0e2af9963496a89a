"""Frames read by a thread of their own, while others are worked on."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Self

import torch

from hasten.media.reading import ClipReader

ROOM = 4  # frames that are read ahead
PATIENCE = 1.0  # seconds that a source may take to notice that it is not read any more
CHECK = 0.2  # seconds after which a wait looks up, since Windows does not end it for Ctrl-C


@dataclasses.dataclass(frozen=True)
class Arrival:
    """A frame (c, h, w) in uint8, its time in the clip, and when it was there to be worked on
    (both in seconds, the latter of the performance counter)."""

    pixels: torch.Tensor
    time: Fraction
    arrived: float


class Arrivals:
    """The frames of a clip in the order they come, in a ``with`` block that closes the clip.

    Args:
        reader: the open clip.
        drop: a frame that comes while the one before still waits takes its place; else the source
            waits.
        paced: frames come at their own times, as from a camera; else as fast as they are read.

    Attributes:
        skipped: how many frames gave their place to a later one.
    """

    def __init__(self, reader: ClipReader, *, drop: bool = False, paced: bool = False) -> None:
        self.reader, self.skipped = reader, 0
        self._drop, self._paced = drop, paced
        self._waiting: deque[Arrival] = deque()
        self._changed = threading.Condition()
        self._stopped = threading.Event()
        self._ended, self._error = False, None
        self._thread = threading.Thread(target=self._read, daemon=True, name="frames")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        with self._changed:
            self._changed.notify_all()
        self._thread.join(PATIENCE)
        if not self._thread.is_alive():  # else it waits for a pipe, which must not be closed
            self.reader.close()

    def frames(self, busy: Callable[[], bool] = lambda: False) -> Iterator[Arrival | None]:
        """The frames; None where none has come and there is other work, which ``busy`` says.

        Raises:
            UserError: the clip breaks off, after the frames before.
        """
        while True:
            with self._changed:
                while not (self._waiting or self._ended or busy()):
                    self._changed.wait(CHECK)
                if self._waiting:
                    found = self._waiting.popleft()
                    self._changed.notify_all()
                elif self._ended:
                    break
                else:
                    found = None
            if found is not None and not self._drop:
                found = dataclasses.replace(found, arrived=time.perf_counter())
            yield found
        if self._error is not None:
            raise self._error

    def _read(self) -> None:
        try:
            began = time.perf_counter()
            for pixels, moment in self.reader:
                early = float(moment) - (time.perf_counter() - began)
                if self._paced and early > 0:
                    self._stopped.wait(early)
                self._add(Arrival(pixels, moment, time.perf_counter()))
                if self._stopped.is_set():
                    break
        except Exception as error:
            self._error = error
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    def _add(self, arrival: Arrival) -> None:
        with self._changed:
            if self._drop:
                self.skipped += len(self._waiting)
                self._waiting.clear()
            while len(self._waiting) >= ROOM and not self._stopped.is_set():
                self._changed.wait(CHECK)
            self._waiting.append(arrival)
            self._changed.notify_all()
