"""Which features of a network are cached: each part names a cut that a network is split at."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from hasten.core.call import Call, State
from hasten.core.condition import Condition
from hasten.core.engine import Prepared
from hasten.core.errors import require, require_number, require_whole
from hasten.core.feature_cache import FeatureCache, Kept, Scheduled, Split
from hasten.core.lever import Trait, levers
from hasten.core.model import Model
from hasten.core.program import CACHED

if TYPE_CHECKING:
    from hasten.core.resolved import Resolved

UNETS = "U-Nets"
TRANSFORMERS = "transformers"


@levers.add("deep")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Deep(Scheduled):
    """The deep features of a U-Net (DeepCache, 2312.00858, section 3.2): what enters the decoder
    layer that reads skip connection ``branch``, 0 the outermost. Everything outside is current.
    """

    branch: int = 1
    networks = UNETS

    def __post_init__(self) -> None:
        super().__post_init__()
        require_whole("lever option branch", self.branch, 0, 10_000)

    def where(self) -> dict[str, int]:
        return {"branch": self.branch}


@levers.add("encoder")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Encoder(Scheduled):
    """All features of a U-Net's encoder (Faster Diffusion, 2312.09608, section 3.2): an evaluation
    with cached features runs the decoder alone, at the current time, and does not look at x.

    Attributes:
        batched: the decoder runs once for all evaluations up to the next full one, in a batch as
            many times as large: faster where a small batch leaves the device idle.
    """

    batched: bool = False
    networks = UNETS

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            isinstance(self.batched, bool),
            f"lever option batched is {self.batched!r}; it takes True or False.",
        )

    def wrap(self, net: Prepared, model: Model, resolved: Resolved) -> Prepared:
        return BatchedDecoder(net, self.cut) if self.batched else super().wrap(net, model, resolved)

    def open(self, resolved: Resolved) -> State | None:
        program = resolved.program
        if not self.batched or program is None:
            return super().open(resolved)
        times = tuple(level.t for level in program.levels)
        cached = tuple(variant == CACHED for variant in program.variants)
        return KeptAhead(forecast=self.forecast, times=times, cached=cached)

    def where(self) -> dict[str, object]:
        return {}

    def key(self, resolved: Resolved) -> tuple[str, ...]:
        return (self.cut, "batched") if self.batched else (self.cut,)


@levers.add("blocks")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Blocks(Scheduled):
    """What blocks ``first`` to ``last`` of a transformer (counted from 0) added to the tokens; -1
    is the last block of all, -2 the one before. With ``forecast=1`` the idea of TaylorSeer
    (2503.06923), applied to the whole residual.
    """

    first: int = 1
    last: int = -2
    networks = TRANSFORMERS

    def __post_init__(self) -> None:
        super().__post_init__()
        require_whole("lever option first", self.first, 0, 10_000)
        require_whole("lever option last", self.last, -10_000, 10_000)

    def where(self) -> dict[str, int]:
        return {"first": self.first, "last": self.last}


@levers.add("attention")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Attention(Scheduled):
    """What the attention of every block of a transformer gave, before its gate (as pyramid
    attention broadcast does, 2408.12588): gates, normalisation and the other half of each block are
    current.
    """

    networks = TRANSFORMERS

    def where(self) -> dict[str, object]:
        return {}


@levers.add("first-block")
@dataclasses.dataclass(frozen=True, kw_only=True)
class FirstBlock(FeatureCache):
    """The residual of all blocks after the first, for each picture whose first block added nearly
    what it added at the picture's last full evaluation: mean absolute change over mean absolute
    value below ``threshold``. Each picture decides for itself, never for its batch.
    """

    threshold: float = 0.1
    networks = TRANSFORMERS
    traits = FeatureCache.traits | {Trait.DYNAMIC}  # which blocks run depends on the data

    def __post_init__(self) -> None:
        require_number("lever option threshold", self.threshold, 0.0, 100.0)

    def where(self) -> dict[str, float]:
        return {"threshold": float(self.threshold)}

    def wrap(self, net: Prepared, model: Model, resolved: Resolved) -> Prepared:
        return DecidingSplit(net, self.cut)


class DecidingSplit(Split):
    """A network that decides itself: every evaluation is given what was kept."""

    def refresh(
        self, state: Kept, call: Call, x: torch.Tensor, t: torch.Tensor
    ) -> tuple[torch.Tensor, Kept]:
        features = state.features if state.history else ()
        answer, new = self.full(x, t, call.condition, *features)
        return answer, state.after(t, new)


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class KeptAhead(Kept):
    """Features of a network whose decoder does not look at x, so that its answers at all
    evaluations up to the next full one can be had at once.

    Attributes:
        times: those of the program's evaluations; cached: which of them take cached features.
        answers: what is known of coming evaluations, by their numbers.
    """

    times: tuple[float, ...]
    cached: tuple[bool, ...]
    answers: Mapping[int, torch.Tensor] = dataclasses.field(default_factory=dict)

    def after(self, t: torch.Tensor, features: tuple[torch.Tensor, ...]) -> KeptAhead:
        state: Any = super().after(t, features)
        return dataclasses.replace(state, answers={})

    def coming(self, evaluation: int) -> list[int]:
        """The evaluations from this one up to the next full one."""
        numbers = range(evaluation, len(self.cached))
        return list(itertools.takewhile(lambda number: self.cached[number], numbers))

    @property
    def signature(self) -> tuple[object, ...]:
        return (*super().signature, self.times, tuple(self.answers))

    def rows(self, index: torch.Tensor) -> KeptAhead:
        state: Any = super().rows(index)
        picked = {k: answer[index.to(answer.device)] for k, answer in self.answers.items()}
        return dataclasses.replace(state, answers=picked)

    def cat(self, others: Sequence[Any]) -> KeptAhead:
        state: Any = super().cat(others)
        every = [self.answers, *(other.answers for other in others)]
        joined = {k: torch.cat([answers[k] for answers in every]) for k in self.answers}
        return dataclasses.replace(state, answers=joined)


class BatchedDecoder(Split):
    """Runs the decoder once for all evaluations up to the next full one."""

    def reuse(
        self, state: Kept, call: Call, x: torch.Tensor, t: torch.Tensor
    ) -> tuple[torch.Tensor, Kept]:
        number = call.evaluation
        if not isinstance(state, KeptAhead) or number is None:
            return super().reuse(state, call, x, t)
        answers = dict(state.answers)
        if number not in answers:
            coming = state.coming(number)
            times = [torch.full_like(t, state.times[k]) for k in coming]
            features = [torch.cat(parts) for parts in zip(*map(state.at, times), strict=True)]
            conditions = Condition.cat([call.condition] * len(times))
            xs = torch.cat([x] * len(times))
            many = self.cached(xs, torch.cat(times), conditions, *features).split(len(x))
            answers = dict(zip(coming, many, strict=True))
        answer = answers.pop(number)
        return answer, dataclasses.replace(state, answers=answers)
