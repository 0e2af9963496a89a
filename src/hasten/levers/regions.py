"""Regions: an edit computes the network only where its input differs from that of an earlier edit
(SIGE, 2211.02048): the frames of a clip whose camera stands still, a picture that is painted on.

Every evaluation is compared with the one at its place in an earlier run, and each row of a joined
call with its own. Recomputed tiles change the input of the next evaluation; these differences are
ignored, so the region does not grow from step to step (as in SIGE).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from hasten.core.call import FULL, Call, Output, State
from hasten.core.condition import Condition
from hasten.core.earlier import Earlier, Place, Store
from hasten.core.engine import Prepared
from hasten.core.errors import require, require_number
from hasten.core.feature_cache import Features
from hasten.core.level import Level
from hasten.core.lever import Lever, Stage, Trait, levers
from hasten.core.model import Model

if TYPE_CHECKING:
    from hasten.core.resolved import Resolved


@levers.add("regions")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Regions(Lever):
    """Computes a U-Net only where its input differs from that of the last full run of the same
    evaluation, the reference.

    Attributes:
        most: if at least this share of positions differs, or the condition, the level or the size
            does, the evaluation runs in full and becomes the new reference.
        tolerance: a position (a pixel of the latent) is unchanged if no channel of the network's
            input, whose standard deviation is about 1, differs by more than this; 0 takes every
            difference. If nothing differs, the stored answer is reused.
    """

    most: float = 0.5
    tolerance: float = 0.02

    stage = Stage.VARIANTS
    traits = frozenset({Trait.RUNS, Trait.DYNAMIC, Trait.BITS})
    exports = False

    def __post_init__(self) -> None:
        require_number("lever option most", self.most, 0.01, 1.0)
        require_number("lever option tolerance", self.tolerance, 0.0, 10.0)

    def check(self, resolved: Resolved) -> None:
        model, engine = resolved.model, resolved.engine.part_name
        require(
            engine == "eager",
            f"lever 'regions' runs in engine 'eager', and the plan has {engine!r}; set "
            "engine=eager, or drop regions.",
        )
        require(
            len(model.shape) == 3,
            f"lever 'regions' is for pictures, and model {model.name!r} makes samples of shape "
            f"{model.shape}; drop regions.",
        )

    def transform(self, model: Model, resolved: Resolved) -> Model:
        return dataclasses.replace(model, net=model.family.regions(model.net))

    def wrap(self, net: Prepared, model: Model, resolved: Resolved) -> Prepared:
        return Reusing(net, self.most, self.tolerance)


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class KeptRow:
    """A row of a full run: what was asked, the answer, and row ``row`` of the ``features`` of all
    rows that ran with it."""

    level: Level
    x: torch.Tensor
    condition: Condition
    answer: torch.Tensor
    features: Features
    row: int

    def fits(self, call: Call, x: torch.Tensor, row: int) -> bool:
        """Whether row ``row`` of ``call`` asks the same, of an input that may differ in places."""
        return (
            self.level == call.levels[row]
            and self.x.shape == x.shape[1:]
            and self.condition.same(call.condition.rows([row]))
        )

    @property
    def mine(self) -> Features:
        return tuple(feature[self.row : self.row + 1] for feature in self.features)

    def alone(self) -> KeptRow:
        """The same without the rows that ran with it."""
        mine = tuple(feature.clone() for feature in self.mine)
        return dataclasses.replace(self, features=mine, row=0)


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Region:
    """What a run computes of a row: the places of ``mask`` (1, h, w), and the tiles around them,
    which are where its answer was not the kept one so far: ``covered``."""

    mask: torch.Tensor
    covered: torch.Tensor


class Reusing(Prepared):
    """A network that gives each row the answer that was kept of its place, computed anew where the
    row differs from what was kept."""

    def __init__(self, net: Prepared, most: float, tolerance: float) -> None:
        self.net, self.most, self.tolerance = net, most, tolerance
        self.precision, self.versions = net.precision, net.versions
        self.weights_mb = net.weights_mb

    def __call__(
        self,
        x: torch.Tensor,
        t: torch.Tensor,
        condition: Condition | torch.Tensor | None = None,
        *features: torch.Tensor,
    ) -> Output:
        return self.net(x, t, condition, *features)

    def run(
        self, call: Call, x: torch.Tensor, t: torch.Tensor
    ) -> tuple[torch.Tensor, State | None]:
        state = call.state
        if call.variant != FULL or not isinstance(state, Earlier):
            return super().run(call, x, t)
        kept: dict[int, KeptRow] = {}
        for row, place in enumerate(state.places):
            found = state.kept.get(place)
            if isinstance(found, KeptRow) and found.fits(call, x, row):
                kept[row] = found
        regions = [region if isinstance(region, Region) else None for region in state.own]
        mask = self._mask(x, kept, regions)
        shares = mask.float().mean((1, 2, 3)).tolist()
        part = [row for row, share in enumerate(shares) if 0 < share < self.most]
        whole = [row for row, share in enumerate(shares) if share >= self.most]
        answers = {row: one.answer for row, one in kept.items()}
        if part:
            features = _joined([kept[row] for row in part])
            new = self.net(*_rows(call, x, t, part), mask[part], *features)
            for row, answer in zip(part, new, strict=True):
                covered, before = (answer != answers[row]).any(0, keepdim=True), regions[row]
                covered = covered if before is None else covered | before.covered
                regions[row], answers[row] = Region(mask=mask[row], covered=covered), answer
        if whole:
            inputs = *_rows(call, x, t, whole), mask[whole]
            answers.update(zip(whole, self._kept_(call, state, whole, inputs), strict=True))
        answer = torch.stack([answers[row] for row in range(len(call))])
        return answer, dataclasses.replace(state, own=tuple(regions))

    def _mask(
        self, x: torch.Tensor, kept: dict[int, KeptRow], regions: Sequence[Region | None]
    ) -> torch.Tensor:
        """Where each row has to be computed (n, 1, h, w): everywhere where nothing was kept."""
        mask = torch.ones_like(x[:, :1], dtype=torch.bool)
        for row, one in kept.items():
            near = (x[row] - one.x).abs() <= self.tolerance  # false of what is not a number
            differs, before = ~near.all(0, keepdim=True), regions[row]
            mask[row] = differs if before is None else before.mask | (differs & ~before.covered)
        return mask

    def _kept_(
        self,
        call: Call,
        state: Earlier,
        rows: Sequence[int],
        inputs: tuple[torch.Tensor, torch.Tensor, Condition, torch.Tensor],
    ) -> Sequence[torch.Tensor]:
        """The answers of a full run of ``rows``, which the store keeps from here on."""
        places = [state.places[row] for row in rows]
        _forget_(state.kept, places)
        answer, *new = self.net(*inputs)
        features = tuple(new)  # one object, which says that the rows belong together
        x, _, condition, _ = inputs
        for number, (row, place) in enumerate(zip(rows, places, strict=True)):
            state.kept[place] = KeptRow(
                level=call.levels[row],
                x=x[number],
                condition=condition.rows([number]),
                answer=answer[number],
                features=features,
                row=number,
            )
        return answer.unbind()


def _rows(
    call: Call, x: torch.Tensor, t: torch.Tensor, rows: list[int]
) -> tuple[torch.Tensor, torch.Tensor, Condition]:
    """Copies of what the network is given for ``rows``."""
    every = len(rows) == len(call)
    return x[rows], t[rows], call.condition if every else call.condition.rows(rows)


def _joined(kept: Sequence[KeptRow]) -> Features:
    """The features of these rows, which are not copied where they are all of one full run."""
    features = kept[0].features
    together = all(one.features is features for one in kept)
    if together and [one.row for one in kept] == list(range(len(features[0]))):
        return features
    return tuple(torch.cat(parts) for parts in zip(*(one.mine for one in kept), strict=True))


def _forget_(store: Store, places: Sequence[Place]) -> None:
    """Drop what was kept of ``places``, and its memory: what shares it gets memory of its own."""
    dropped = [store.pop(place, None) for place in places]
    gone = {id(one.features) for one in dropped if isinstance(one, KeptRow)}
    for place, one in list(store.items()):
        if isinstance(one, KeptRow) and id(one.features) in gone:
            store[place] = one.alone()
