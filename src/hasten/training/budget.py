"""How long a run may take, and how many steps that is."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable

from hasten.core.errors import require, require_number


@dataclasses.dataclass(frozen=True, kw_only=True)
class Deadline:
    """The moment ``at`` of ``clock``, in seconds, at which a run has to end."""

    at: float
    clock: Callable[[], float] = time.monotonic

    @staticmethod
    def after(minutes: float, clock: Callable[[], float] = time.monotonic) -> Deadline:
        """The deadline ``minutes`` from now.

        Raises:
            UserError: minutes are out of range.
        """
        require_number("minutes", minutes, 0.01, 1e6)
        return Deadline(at=clock() + 60 * minutes, clock=clock)

    @property
    def left(self) -> float:
        """Seconds until then; negative once it has passed."""
        return self.at - self.clock()

    def share(self, share: float) -> Deadline:
        """The deadline of a part that may take ``share`` of the time that is left."""
        return dataclasses.replace(self, at=self.clock() + share * max(self.left, 0.0))

    def earlier(self, seconds: float) -> Deadline:
        """This deadline, ``seconds`` earlier."""
        return dataclasses.replace(self, at=self.at - seconds)


def require_time_left(deadline: Deadline | None, made: str) -> None:
    """Refuse to go on where ``made``, which stays, took all of the time."""
    require(
        deadline is None or deadline.left > 0,
        f"minutes: making {made} took all of it; they stay, so start again with as many --minutes "
        "for the rest.",
    )


class Length:
    """The length of a run in steps: what fits before ``deadline``, at most ``most``.

    It is estimated after the first step, which may include a compilation, after the second, and
    again whenever the run has grown by a quarter, each time from the rate of its latter half.
    """

    def __init__(self, deadline: Deadline, step: int, most: int) -> None:
        self.deadline, self.first, self.most = deadline, step, most
        self.marks = [(step, deadline.left)]
        self.next = step + 1

    def due(self, step: int) -> bool:
        """Whether the length is to be estimated after ``step`` steps."""
        return step >= self.next

    def over(self) -> bool:
        """Whether the deadline has passed."""
        return self.deadline.left <= 0

    def estimate(self, step: int) -> int:
        """The length as it looks after ``step`` steps."""
        left = self.deadline.left
        middle = self.first + (step - self.first) // 2
        then, had = next(mark for mark in reversed(self.marks) if mark[0] <= middle)
        self.marks.append((step, left))
        self.next = step + max(1, (step - self.first) // 4)
        if left <= 0:
            return step
        each = max((had - left) / (step - then), 1e-9)
        return min(self.most, step + max(1, int(left / each)))
