"""A Call: one evaluation that a network is asked for, and the Answer it gets.

Every row of a call has a level of its own, so calls of different runs, levels and conditions can be
joined into one network call and their answer split again, by whoever drives them: guidance,
parallel executors, streams, servers.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, Self

import torch

from hasten.core.condition import COND, Condition
from hasten.core.level import Level
from hasten.core.transfer import sent

FULL = "full"  # the variant of a network that every network has

Output = Any
"""Of a network: the answer (n, ...); with what it keeps of its features after it, in a tuple, where
it keeps any."""
Weights = Callable[[Level], Mapping[str, float]]
"""``weights(level)``: the weight of each branch of a condition in the guided x0."""


class State(Protocol):
    """What a network keeps from one evaluation of a run to the next (features, say): row i belongs
    to sample i. It is never changed; an evaluation answers with a new one."""

    @property
    def signature(self) -> tuple[object, ...]:
        """States of equal signature can be joined."""
        ...

    def rows(self, index: torch.Tensor) -> State:
        """The state of the samples ``index`` (k,)."""
        ...

    def cat(self, others: Sequence[Self]) -> State:
        """This state followed by others of equal signature."""
        ...


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Call:
    """One evaluation.

    Attributes:
        x: latents (n, ...) of any rank, float32.
        levels: n noise levels, one a row.
        condition: of n samples, with all branches that guidance needs.
        evaluation: its number in the run, from 0; None where runs at different evaluations are
            joined.
        variant: which variant of the network answers: ``full``, or what a lever of the plan marked
            (``cached``, ``small``).
        branch: the branch of the condition that is asked about.
        states: what the run keeps, by branch.
        raw: whether the network's own output is wanted, not x0.
        weights: of the branches, for a denoiser that guides; None for those of the denoiser.
    """

    x: torch.Tensor
    levels: tuple[Level, ...]
    condition: Condition
    evaluation: int | None = None
    variant: str = FULL
    branch: str = COND
    states: Mapping[str, State] = dataclasses.field(default_factory=dict)
    raw: bool = False
    weights: Weights | None = None

    def __len__(self) -> int:
        return len(self.levels)

    @property
    def level(self) -> Level | None:
        """The level of all rows, None where they differ."""
        first = self.levels[0]
        return first if self.levels.count(first) == len(self.levels) else None

    @property
    def state(self) -> State | None:
        """What the run keeps of this branch."""
        return self.states.get(self.branch)

    @property
    def times(self) -> torch.Tensor:
        """The times (n,) that the network is given, float32."""
        level = self.level
        if level is not None:
            return torch.full((len(self),), level.t, dtype=torch.float32, device=self.x.device)
        times = torch.tensor([level.t for level in self.levels], dtype=torch.float32)
        return sent(times, self.x.device)

    def of_branch(self, branch: str) -> Call:
        """The same about one branch of the condition."""
        alone = self.condition.branch(branch)
        states = {branch: self.states[branch]} if branch in self.states else {}
        return self.changed(condition=alone, branch=branch, states=states)

    def changed(self, **fields: object) -> Call:
        """The same with other ``fields``; several times faster than ``dataclasses.replace``, for it
        is done at every evaluation."""
        other = object.__new__(Call)
        other.__dict__.update(self.__dict__, **fields)
        return other

    def rows(self, index: Sequence[int]) -> Call:
        """The rows ``index`` alone."""
        places = torch.as_tensor(index, dtype=torch.long)
        return self.changed(
            x=self.x[places.to(self.x.device)],
            levels=tuple(self.levels[row] for row in index),
            condition=self.condition.rows(places),
            states=state_rows(self.states, places),
        )

    @property
    def signature(self) -> tuple[object, ...]:
        """Calls of equal signature can be joined."""
        state = self.state
        return (
            self.x.shape[1:],
            self.condition.signature,
            self.variant,
            self.raw,
            None if state is None else state.signature,
        )


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Answer:
    """What a network believes.

    Attributes:
        x0: (n, ...), float32; the network's own output for a raw call.
        variance: the variance in [-1, 1] that the network learned, like x0; None without one.
        states: what the run keeps from here on, by branch.
    """

    x0: torch.Tensor
    variance: torch.Tensor | None = None
    states: Mapping[str, State] = dataclasses.field(default_factory=dict)


class Denoiser(Protocol):
    """Answers several calls at once; those of equal signature may share a network call."""

    def __call__(self, calls: Sequence[Call]) -> list[Answer]: ...


def state_rows(states: Mapping[str, State], places: torch.Tensor) -> dict[str, State]:
    """Every branch's state of the samples ``places`` (k,)."""
    return {branch: state.rows(places) for branch, state in states.items()}


def joined(calls: Sequence[Call]) -> Call:
    """Calls of equal signature as one, their rows one after another."""
    first, *others = calls
    if not others:
        return first
    states: dict[str, State] = {}
    if first.state is not None:
        kept = [call.state for call in others if call.state is not None]  # all: equal signatures
        states = {first.branch: first.state.cat(kept)}
    numbers = {call.evaluation for call in calls}
    return first.changed(
        x=torch.cat([call.x for call in calls]),
        levels=tuple(itertools.chain.from_iterable(call.levels for call in calls)),
        condition=Condition.cat([call.condition for call in calls]),
        evaluation=numbers.pop() if len(numbers) == 1 else None,
        states=states,
    )


def split(answer: Answer, calls: Sequence[Call]) -> list[Answer]:
    """The answer of :func:`joined` calls as one for each call, under its own branch."""
    if len(calls) == 1:
        return [answer]
    sizes = [len(call) for call in calls]
    x0s = torch.split_with_sizes(answer.x0, sizes)
    state = next(iter(answer.states.values()), None)
    if answer.variance is None and state is None:
        return [Answer(x0=x0) for x0 in x0s]
    variances = [None] * len(calls) if answer.variance is None else answer.variance.split(sizes)
    out, first = [], 0
    for call, x0, variance in zip(calls, x0s, variances, strict=True):
        states: dict[str, State] = {}
        if state is not None:
            states = {call.branch: state.rows(torch.arange(first, first + len(call)))}
        out.append(Answer(x0=x0, variance=variance, states=states))
        first += len(call)
    return out


def answered(calls: Sequence[Call], answer: Callable[[Call], Answer], most: int) -> list[Answer]:
    """Answers to ``calls``: those of equal signature are joined, up to ``most`` rows, and asked of
    ``answer`` together."""
    if len(calls) == 1:
        return [answer(calls[0])]
    if len({call.signature for call in calls}) == 1 and sum(map(len, calls)) <= most:
        return split(answer(joined(calls)), calls)
    groups: dict[tuple[object, ...], list[int]] = {}
    for number, call in enumerate(calls):
        groups.setdefault(call.signature, []).append(number)
    out: dict[int, Answer] = {}
    for numbers in groups.values():
        for some in _batches(numbers, [len(calls[number]) for number in numbers], most):
            chosen = [calls[number] for number in some]
            out.update(zip(some, split(answer(joined(chosen)), chosen), strict=True))
    return [out[number] for number in range(len(calls))]


def _batches(numbers: list[int], sizes: list[int], most: int) -> list[list[int]]:
    """``numbers`` in order, in runs whose sizes add up to ``most`` at most (or one alone)."""
    out: list[list[int]] = []
    total = 0
    for number, size in zip(numbers, sizes, strict=True):
        if out and total + size <= most:
            out[-1].append(number)
            total += size
        else:
            out.append([number])
            total = size
    return out
