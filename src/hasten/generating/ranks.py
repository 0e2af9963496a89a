"""Which of several processes this one is, where torchrun or accelerate started them."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

from hasten.core.errors import UserError, require
from hasten.generating.shards import LOCKS, named


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rank:
    """Process ``rank`` of ``world``, number ``local`` on its machine."""

    rank: int = 0
    world: int = 1
    local: int = 0

    def own(self, shards: int) -> range:
        """The shards that it begins with."""
        return range(self.rank, shards, self.world)

    def mark(self, folder: Path) -> None:
        """Show the other processes that this one has the same folder."""
        if self.world > 1:
            with named(folder):
                (folder / LOCKS / f"rank-{self.rank:04d}").touch()

    def others(self, folder: Path, shards: int) -> list[int]:
        """The shards of those that have the same folder, to help with. What others make in folders
        of their own is left to them."""
        there = [
            rank
            for rank in range(self.world)
            if rank != self.rank and (folder / LOCKS / f"rank-{rank:04d}").exists()
        ]
        return [shard for shard in range(shards) if shard % self.world in there]


def here() -> Rank:
    """This process, by WORLD_SIZE, RANK and LOCAL_RANK of the environment.

    Raises:
        UserError: one of them is no number, or they do not fit.
    """
    world = _number("WORLD_SIZE", 1)
    if world <= 1:
        return Rank()
    rank = _number("RANK", 0)
    require(
        0 <= rank < world,
        f"the environment's RANK is {rank}, and WORLD_SIZE {world}; start with torchrun.",
    )
    return Rank(rank=rank, world=world, local=_number("LOCAL_RANK", 0))


def _number(name: str, default: int) -> int:
    text = os.environ.get(name, str(default))
    try:
        return int(text)
    except ValueError as error:
        raise UserError(f"the environment's {name} is {text!r}; it takes a number.") from error
