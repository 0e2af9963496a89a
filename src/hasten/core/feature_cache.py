"""The feature cache: an evaluation runs part of the network and takes the rest from an earlier one.

A split network is called in two ways, ``(x, t, condition) -> (answer, *features)`` in full and
``(x, t, condition, *features) -> answer`` with what was kept, so each is one static graph. Which
evaluation does which is the variant of a Program's rows. What is kept is the State of a run.
"""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, cast

import torch

from hasten.core.call import FULL, Call, Output, State
from hasten.core.condition import Condition
from hasten.core.engine import Prepared
from hasten.core.errors import UserError, require, require_whole
from hasten.core.lever import Lever, Stage, Trait
from hasten.core.model import Model
from hasten.core.program import CACHED, Program

if TYPE_CHECKING:
    from hasten.core.resolved import Resolved

Features = tuple[torch.Tensor, ...]
"""What a split network keeps: tensors (n, ...)."""


class FeatureCache(Lever):
    """Which features are kept, and when they are used again.

    Attributes:
        networks: the kinds of network it can split, in words.
        forecast: 1 extrapolates the features along t (first order), 0 takes them as they are.
    """

    stage = Stage.VARIANTS
    traits = frozenset({Trait.SPLITS, Trait.ORDER, Trait.PROGRAM, Trait.MARKS, Trait.BITS})
    exports = False
    networks: ClassVar[str]
    forecast: int = 0

    @abstractmethod
    def where(self) -> Mapping[str, object]:
        """The options that say where the network is split."""

    @property
    def cut(self) -> str:
        """Stands for the split: levers with the same cut can share a prepared network."""
        return f"{self.part_name} {self.where()}"

    def split(self, net: torch.nn.Module) -> torch.nn.Module:
        """``net`` as a module that can be called in both ways; shares its weights.

        Raises:
            UserError: the network cannot be split here.
        """
        make = getattr(net, "split", None)
        if make is None:
            raise UserError(
                f"lever {self.part_name!r} cannot split a {type(net).__name__}; it splits "
                f"{self.networks}, and networks with a method split(kind, **where)."
            )
        return make(self.part_name, **self.where())

    def transform(self, model: Model, resolved: Resolved) -> Model:
        return dataclasses.replace(model, net=self.split(model.net))

    def wrap(self, net: Prepared, model: Model, resolved: Resolved) -> Prepared:
        return Split(net, self.cut)

    def open(self, resolved: Resolved) -> State | None:
        return Kept(forecast=self.forecast)

    def key(self, resolved: Resolved) -> tuple[str, ...]:
        return (self.cut,)

    def variant_macs(
        self, resolved: Resolved, network_macs: Callable[[Model], tuple[int, int]]
    ) -> Mapping[str, int]:
        full, cached = network_macs(self.transform(resolved.structured, resolved))
        return {FULL: full, CACHED: cached}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scheduled(FeatureCache):
    """A cache on a schedule that is known beforehand.

    Attributes:
        every: each ``every``-th evaluation is full; 1 uses no cached features.
        mask: in place of ``every``, for each evaluation 1 where it is full and 0 where it takes
            cached features.
        forecast: 1 extrapolates the features along t from the last two full evaluations (Taylor of
            order 1, 2503.06923), once there are two.
    """

    every: int = 2
    mask: tuple[int, ...] | None = None
    forecast: int = 0

    def __post_init__(self) -> None:
        require_whole("lever option every", self.every, 1, 10_000)
        require_whole("lever option forecast", self.forecast, 0, 1)
        if self.mask is None:
            return
        mask = list(self.mask) if isinstance(self.mask, (tuple, list)) else []
        good = len(mask) > 0 and all(isinstance(entry, int) and entry in (0, 1) for entry in mask)
        require(good, f"lever option mask is {self.mask!r}; it takes ones (full) and zeros, (1,0).")
        early = "lever option mask begins with 0, but nothing is cached yet; begin with 1."
        require(mask[0] == 1, early)
        require(self.every == 2, "a feature cache takes every or mask, not both; drop one.")
        object.__setattr__(self, "mask", tuple(map(int, mask)))

    def mark(self, program: Program) -> Program:
        count = program.evaluations
        mask = self.mask or tuple(int(k % self.every == 0) for k in range(count))
        require(
            len(mask) == count,
            f"lever option mask has {len(mask)} entries, but the plan makes {count} evaluations; "
            "give one for each.",
        )
        return program.with_variants([FULL if full else CACHED for full in mask])


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Kept:
    """What a run keeps: the features of the last full evaluations, at their times (n,), the oldest
    first. Row i belongs to sample i, so a sample never sees another."""

    forecast: int = 0
    history: tuple[tuple[torch.Tensor, Features], ...] = ()

    @property
    def features(self) -> Features:
        """What the last full evaluation kept."""
        return self.history[-1][1]

    def __len__(self) -> int:
        return len(self.history[-1][0]) if self.history else 0

    def after(self, t: torch.Tensor, features: Features) -> Kept:
        """The state after a full evaluation at the times t (n,)."""
        before = self.history[-1:] if self.forecast else ()
        return dataclasses.replace(self, history=(*before, (t, features)))

    def at(self, t: torch.Tensor) -> Features:
        """The features for an evaluation at the times t (n,).

        Raises:
            UserError: nothing was kept yet for this branch of the condition.
        """
        require(
            bool(self.history),
            "an evaluation takes cached features before any were kept; let the mask be full where "
            "the run or its guidance begins.",
        )
        last, features = self.history[-1]
        early, older = self.history[0]
        if len(self.history) < 2:
            return features
        gap = last - early
        share = torch.where(gap == 0, 0.0, (t - last) / torch.where(gap == 0, 1.0, gap))
        return tuple(_ahead(a, b, share) for a, b in zip(older, features, strict=True))

    @property
    def signature(self) -> tuple[object, ...]:
        shapes = [tuple(feature.shape[1:]) for _, features in self.history for feature in features]
        return type(self), self.forecast, len(self.history), tuple(shapes)

    def rows(self, index: torch.Tensor) -> Kept:
        history = tuple(
            (
                t[index.to(t.device)],
                tuple(feature[index.to(feature.device)] for feature in features),
            )
            for t, features in self.history
        )
        return dataclasses.replace(self, history=history)

    def cat(self, others: Sequence[Kept]) -> Kept:
        columns = zip(self.history, *(other.history for other in others), strict=True)
        history = tuple(
            (
                torch.cat([t for t, _ in column]),
                tuple(map(torch.cat, zip(*(features for _, features in column), strict=True))),
            )
            for column in columns
        )
        return dataclasses.replace(self, history=history)


class Split(Prepared):
    """A split network that an engine has prepared; called like a network, it answers in full."""

    def __init__(self, net: Prepared, cut: str) -> None:
        self.net, self.cut = net, cut
        self.precision, self.versions = net.precision, net.versions
        self.weights_mb = net.weights_mb

    def __call__(
        self,
        x: torch.Tensor,
        t: torch.Tensor,
        condition: Condition | torch.Tensor | None = None,
        *features: torch.Tensor,
    ) -> Output:
        return self.net(x, t, condition)[0]

    def full(
        self,
        x: torch.Tensor,
        t: torch.Tensor,
        condition: Condition | torch.Tensor | None,
        *features: torch.Tensor,
    ) -> tuple[torch.Tensor, Features]:
        """The answer, and its features; ``features`` are for networks that decide themselves."""
        answer, *new = self.net(x, t, condition, *features)
        return answer, tuple(new)

    def cached(
        self,
        x: torch.Tensor,
        t: torch.Tensor,
        condition: Condition | torch.Tensor | None,
        *features: torch.Tensor,
    ) -> torch.Tensor:
        """The answer with cached features; time and condition are the current ones."""
        return self.net(x, t, condition, *features)

    def run(
        self, call: Call, x: torch.Tensor, t: torch.Tensor
    ) -> tuple[torch.Tensor, State | None]:
        state = Kept() if call.state is None else cast("Kept", call.state)
        if call.variant == CACHED:
            return self.reuse(state, call, x, t)
        if call.variant != FULL:
            return super().run(call, x, t)
        return self.refresh(state, call, x, t)

    def refresh(
        self, state: Kept, call: Call, x: torch.Tensor, t: torch.Tensor
    ) -> tuple[torch.Tensor, Kept]:
        """A full evaluation."""
        answer, features = self.full(x, t, call.condition)
        return answer, state.after(t, features)

    def reuse(
        self, state: Kept, call: Call, x: torch.Tensor, t: torch.Tensor
    ) -> tuple[torch.Tensor, Kept]:
        """An evaluation with cached features."""
        return self.cached(x, t, call.condition, *state.at(t)), state


def _ahead(a: torch.Tensor, b: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
    """``b + share * (b - a)``, row by row."""
    by = share.view(-1, *[1] * (b.ndim - 1)).to(b.dtype)
    return torch.addcmul(b, b - a, by)
