"""What runs of one driver keep for each other: the edits of an editor, the frames of a stream.

A run is a Session, and its own State ends with it. What outlives it belongs to the driver, and is
found by the place of an evaluation: the next run asks at the same places. Runs may overlap, as the
frames of a stream do, so all of them look into one store.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

import torch

from hasten.core.call import State

Place = tuple[str, str, int, int]
"""An evaluation of a sample: the name of its condition, the branch, its number in the run, and the
sample's number in the batch."""
Store = dict[Place, object]
"""What a lever keeps of places."""


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Earlier:
    """The State of a run whose rows are looked up in ``kept``, the store of its driver: row i of a
    call is at ``places[i]``, whichever calls it is joined with, and ``own[i]`` is what the run
    itself keeps of it from one evaluation to the next."""

    kept: Store
    places: tuple[Place, ...]
    own: tuple[object, ...]

    @staticmethod
    def at(
        kept: Store,
        evaluation: tuple[str, int],
        samples: Sequence[int],
        before: Mapping[str, State],
        branches: Iterable[str],
    ) -> dict[str, Earlier]:
        """That of ``evaluation``, the name of its condition and its number, by branch; ``before``:
        that after the evaluation before."""
        name, number = evaluation
        out = {}
        for branch in branches:
            places = tuple((name, branch, number, sample) for sample in samples)
            state = before.get(branch)
            own = state.own if isinstance(state, Earlier) else (None,) * len(places)
            out[branch] = Earlier(kept=kept, places=places, own=own)
        return out

    @property
    def signature(self) -> tuple[object, ...]:
        """Runs of one driver can be joined."""
        return type(self), id(self.kept)

    def rows(self, index: torch.Tensor) -> Earlier:
        chosen = index.tolist()
        places, own = (tuple(part[row] for row in chosen) for part in (self.places, self.own))
        return dataclasses.replace(self, places=places, own=own)

    def cat(self, others: Sequence[Earlier]) -> Earlier:
        every = (self, *others)
        places = tuple(place for one in every for place in one.places)
        own = tuple(entry for one in every for entry in one.own)
        return dataclasses.replace(self, places=places, own=own)
