"""How a pipeline calls its network: where x and t go, and what else it is given, read from two
recorded steps."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Any

import torch
from torch.utils import _pytree as pytree

from hasten.adapters.recording import NetworkCall
from hasten.core.errors import UserError, require

EXACT = 1e-5  # relative, of what is put into place
Samples = torch.Tensor | list[torch.Tensor] | tuple[torch.Tensor, ...]
"""A batch, or samples of any sizes one by one."""
Values = dict[str, Any]
"""The arguments of a call by path: those in dicts and tuples one by one."""


class Batch(list):
    """A list of tensors that stands for a batch: one a sample, of any sizes."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PutX:
    """Where x goes.

    Attributes:
        path: in the arguments of the network.
        listed: it is a list of samples, not a batch.
        axis: of length 1 that is added; None where none is.
        channels: how many channels follow x in the same tensor, taken from the table.
        dtype: that the network was given.
    """

    path: str
    listed: bool = False
    axis: int | None = None
    channels: int = 0
    dtype: torch.dtype = torch.float32

    def __call__(self, x: torch.Tensor, more: torch.Tensor | None) -> Samples:
        if more is not None:
            x = torch.cat([x, more.to(x.dtype)], dim=1)
        if self.axis is not None:
            x = x.unsqueeze(self.axis)
        return list(x.unbind(0)) if self.listed else x

    def undone(self, value: Samples) -> torch.Tensor:
        """A batch of samples from what the network gives or is given."""
        x = torch.stack(list(value)) if isinstance(value, (list, tuple)) else value
        return x if self.axis is None else x.squeeze(self.axis)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PutT:
    """Where the time goes: ``offset + slope * t``, one a row, repeated over ``tail``."""

    path: str
    slope: float
    offset: float
    tail: tuple[int, ...] = ()

    def __call__(self, t: torch.Tensor) -> torch.Tensor:
        value = t * self.slope + self.offset
        return value.view(-1, *[1] * len(self.tail)).expand(-1, *self.tail) if self.tail else value


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout:
    """How a module is called for one branch of the condition.

    Attributes:
        x, t: where they go.
        paths, structure: of all arguments, and how they are put together.
        constant: by path, what is the same for every sample and step.
        table: by path, what each branch has for every sample: ``each`` rows of a tensor, or one of
            a list.
        linked: by path, which tensor of another module's answer it is.
        batched: how many branches a call is for; lists: the arguments that are lists of samples.
    """

    x: PutX
    t: PutT
    paths: tuple[str, ...]
    structure: pytree.TreeSpec
    constant: Values
    table: Mapping[str, Sequence[Any]]
    each: Mapping[str, int]
    linked: Mapping[str, int]
    batched: int
    lists: frozenset[str]

    def __deepcopy__(self, memo: dict[int, object]) -> Layout:
        return self  # nothing in it is ever changed

    def table_of(self, calls: Sequence[NetworkCall]) -> dict[str, list[Samples]]:
        """What :attr:`table` would be of ``calls`` for other samples.

        Raises:
            UserError: they are not called so.
        """
        flat = [_flat(call, self.lists) for call in calls]
        other = {*flat[0]} ^ {*self.paths}
        other |= {path for path, value in self.constant.items() if not _same(value, flat[0][path])}
        require(
            not other,
            f"the pipeline gives its network {', '.join(sorted(other))} otherwise for these "
            "prompts than for those it was loaded for; load it for these.",
        )
        return {path: _parts(flat, path, self.x, self.batched) for path in self.table}


@dataclasses.dataclass(kw_only=True)
class Reader:
    """Reads how modules are called from the records of two steps."""

    kind: str
    samples: int
    times: tuple[float, float]
    batched: int = 1

    def layout(
        self,
        first: Sequence[NetworkCall],
        second: Sequence[NetworkCall],
        doubled: Sequence[NetworkCall],
        sample: torch.Tensor,
        known: bool,
        answers: Sequence[torch.Tensor] = (),
    ) -> Layout:
        """How a module is called.

        Args:
            doubled: its calls for twice as many samples, where that is ``known``.
            answers: of another module, which may be among the arguments.
        """
        lists = _batches(first[0], doubled[0]) if known else set()
        flat, again, twice = (
            [_flat(call, lists) for call in calls] for calls in (first, second, doubled)
        )
        x = self._find_x(flat[0], sample)
        rows = len(x.undone(flat[0][x.path]))
        self.batched = rows // self.samples
        require(
            rows == self.batched * self.samples and (self.batched == 1 or len(first) == 1),
            f"{self.kind} asks its network about {rows} rows for {self.samples} samples in each of "
            f"{len(first)} calls; hasten captures one batched call, or one call a branch.",
        )
        t = self._find_t(flat[0], again[0], x.path, rows)
        linked = {
            path: place
            for path, value in flat[0].items()
            for place, answer in enumerate(answers)
            if path != x.path and _same(value, answer)
        }
        moving = [
            path
            for path, value in flat[0].items()
            if path not in (x.path, t.path, *linked) and not _same(value, again[0].get(path))
        ]
        require(
            not moving,
            f"{self.kind} gives its network {', '.join(moving)}, which changes from step to step "
            "and is neither x nor t; hasten cannot capture that.",
        )
        table: dict[str, list[Any]] = {}
        constant: Values = {}
        each: dict[str, int] = {}
        for path, value in flat[0].items():
            if path == t.path or path in linked or (path == x.path and not x.channels):
                continue
            if path != x.path and not self._grows(value, twice[0].get(path), rows, known):
                constant[path] = value
                continue
            table[path] = _parts(flat, path, x, self.batched)
            each[path] = len(value) // rows
        return Layout(
            x=x,
            t=t,
            paths=tuple(flat[0]),
            structure=pytree.tree_flatten(_with_batches(first[0], lists))[1],
            constant=constant,
            table=table,
            each=each,
            linked=linked,
            batched=self.batched,
            lists=frozenset(lists),
        )

    def _grows(self, value: object, twice: object, rows: int, known: bool) -> bool:
        """Whether an argument has rows for every sample."""
        if isinstance(value, Batch):
            return True
        if not isinstance(value, torch.Tensor) or value.ndim == 0 or len(value) % rows:
            return False
        if not known:
            return len(value) == rows
        return isinstance(twice, torch.Tensor) and len(twice) == 2 * len(value) > 0

    def _find_x(self, flat: Values, sample: torch.Tensor) -> PutX:
        for path, value in flat.items():
            listed = isinstance(value, Batch)
            if not listed and not (isinstance(value, torch.Tensor) and value.is_floating_point()):
                continue
            if listed and len({item.shape for item in value}) > 1:
                continue
            whole = torch.stack(list(value)) if listed else value
            axes = [axis for axis in range(1, whole.ndim) if whole.shape[axis] == 1]
            for axis in (None, *axes):
                put = PutX(path=path, listed=listed, axis=axis)
                part = put.undone(value)[: len(sample)]
                if part.ndim != sample.ndim or part.ndim < 2 or part.shape[2:] != sample.shape[2:]:
                    continue
                more = part.shape[1] - sample.shape[1]
                if more >= 0 and _near(part[:, : sample.shape[1]], sample):
                    return dataclasses.replace(put, channels=more, dtype=whole.dtype)
        tensors = {path: value for path, value in flat.items() if isinstance(value, torch.Tensor)}
        has = ", ".join(f"{path} {tuple(value.shape)}" for path, value in tensors.items())
        raise UserError(
            f"{self.kind} gives its network nothing that is the scheduler's sample "
            f"{tuple(sample.shape)}; it has {has}. hasten cannot capture it."
        )

    def _find_t(self, flat: Values, again: Values, x: str, rows: int) -> PutT:
        for path, value in flat.items():
            other = again.get(path)
            if (
                path == x
                or not isinstance(value, torch.Tensor)
                or not isinstance(other, torch.Tensor)
            ):
                continue
            if value.shape != other.shape or value.ndim > 2 or _same(value, other):
                continue
            if value.ndim and len(value) not in (1, rows):
                continue
            ends = [each.double().flatten() for each in (value, other)]
            if any(bool((end != end[0]).any()) for end in ends):
                continue
            slope = float(ends[0][0] - ends[1][0]) / (self.times[0] - self.times[1])
            offset = float(ends[0][0]) - slope * self.times[0]
            return PutT(path=path, slope=slope, offset=offset, tail=tuple(value.shape[1:]))
        raise UserError(
            f"{self.kind} gives its network no time that follows the scheduler's; hasten cannot "
            "capture it."
        )


def _parts(flat: Sequence[Values], path: str, x: PutX, batched: int) -> list[Samples]:
    """What each branch has at ``path`` for every sample; of x, the channels that follow it."""
    values = [call[path] for call in flat]
    if path == x.path:
        values = [x.undone(value)[:, -x.channels :] for value in values]
    return [part for value in values for part in _chunks(value, batched)]


def _batches(call: NetworkCall, doubled: NetworkCall) -> set[str]:
    """The arguments that are lists of tensors, one a sample."""
    return {
        name
        for name, value in call.arguments.items()
        if isinstance(value, list)
        and all(isinstance(item, torch.Tensor) for item in value)
        and isinstance(doubled.arguments.get(name), list)
        and len(doubled.arguments[name]) == 2 * len(value) > 0
    }


def _with_batches(call: NetworkCall, lists: Set[str]) -> Values:
    return {
        name: Batch(value) if name in lists else value for name, value in call.arguments.items()
    }


def _flat(call: NetworkCall, lists: Set[str]) -> Values:
    leaves, _ = pytree.tree_flatten_with_path(_with_batches(call, lists))
    return {".".join(map(_step, path)): value for path, value in leaves}


def _step(key: object) -> str:
    return str(getattr(key, "key", getattr(key, "idx", key)))


def _chunks(value: Samples, count: int) -> Iterator[Samples]:
    size = len(value) // count
    return (value[begin : begin + size] for begin in range(0, len(value), size))


def _same(one: object, other: object) -> bool:
    if isinstance(one, (Batch, list, tuple)) and isinstance(other, (Batch, list, tuple)):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return one.shape == other.shape and torch.equal(one, other)
    return one is other or (type(one) is type(other) and bool(one == other))


def _near(one: torch.Tensor, other: torch.Tensor) -> bool:
    apart = (one.double() - other.double()).norm()
    within = max(EXACT, torch.finfo(one.dtype).eps)
    return bool(apart <= within * other.double().norm().clamp_min(1e-12))
