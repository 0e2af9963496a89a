"""What a run of bulk generation did."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from hasten.core.errors import HastenError
from hasten.core.files import JsonObject


@dataclasses.dataclass(frozen=True, kw_only=True)
class Generated:
    """The folder after a run.

    Attributes:
        n: items of the job; made: those that this run made; done: those that are in the folder now.
        duplicates: prompts that were left out because they had occurred before.
        failed: a line for each shard that could not be made.
        seconds: wall-clock time, the loading of the model included.
    """

    out: Path
    n: int
    made: int
    done: int
    shards: int
    duplicates: int = 0
    failed: tuple[str, ...] = ()
    seconds: float = 0.0

    def to_dict(self) -> JsonObject:
        """As JSON."""
        return {**dataclasses.asdict(self), "out": str(self.out), "failed": list(self.failed)}


class UnfinishedError(HastenError):
    """Some shards could not be made; the others are done.

    Attributes:
        result: what was done.
    """

    def __init__(self, result: Generated) -> None:
        self.result = result
        count = len(result.failed)
        super().__init__(
            f"{count} of {result.shards} shards failed, and {result.done} of {result.n} pictures "
            "are done; the same command tries the failed ones again."
        )
