"""A condition: what samples are asked for, beside x and the noise level.

It holds what a pipeline gives its network beside x and t, for n samples: class labels, or any tree
of named tensors. A guided model has several *branches* of one condition (``cond`` and ``null`` for
classifier-free guidance, three for InstructPix2Pix), and each branch is such a tree. Rows of a
condition can be picked, conditions can be joined, and a runtime that compiles a network takes the
tensors of a branch one after another.
"""

from __future__ import annotations

import dataclasses
import functools
import operator
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from hasten.core.errors import UserError, require

COND, NULL = "cond", "null"
Index = Sequence[int] | torch.Tensor


class Leaf(ABC):
    """One named part of a branch, for ``n`` samples."""

    @abstractmethod
    def rows(self, index: torch.Tensor) -> Leaf:
        """The part of the samples ``index`` (k,)."""

    @abstractmethod
    def joined(self, others: Sequence[Any]) -> Leaf:
        """This part followed by those of other conditions, which have the same signature."""

    @abstractmethod
    def value(self, x: torch.Tensor, t: torch.Tensor) -> object:
        """What the network is given for x (n, ...) at the times t (n,)."""

    @property
    @abstractmethod
    def signature(self) -> tuple[object, ...]:
        """Two parts of equal signature can share a network call."""

    @property
    def held(self) -> tuple[torch.Tensor, ...]:
        """What it holds that its signature does not tell apart."""
        return ()

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Leaf:
        """The part on ``device``; floating-point tensors in ``dtype`` where one is given."""
        return self


@dataclasses.dataclass(frozen=True, eq=False)
class PerSample(Leaf):
    """A tensor (n * each, ...): ``each`` rows a sample (1, or the number of frames)."""

    tensor: torch.Tensor
    each: int = 1

    def rows(self, index: torch.Tensor) -> PerSample:
        index = index.to(self.tensor.device)
        if self.each > 1:
            steps = torch.arange(self.each, device=index.device)
            index = (index[:, None] * self.each + steps).flatten()
        return dataclasses.replace(self, tensor=self.tensor[index])

    def joined(self, others: Sequence[PerSample]) -> PerSample:
        tensors = [self.tensor, *(other.tensor for other in others)]
        return dataclasses.replace(self, tensor=torch.cat(tensors))

    def value(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return self.tensor

    @property
    def signature(self) -> tuple[object, ...]:
        return "per sample", self.each, tuple(self.tensor.shape[1:]), self.tensor.dtype

    @property
    def held(self) -> tuple[torch.Tensor, ...]:
        return (self.tensor,)

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> PerSample:
        return dataclasses.replace(self, tensor=_moved(self.tensor, device, dtype))


@dataclasses.dataclass(frozen=True, eq=False)
class Shared(Leaf):
    """One value for all samples: a tensor (position ids, say), a number, a text, or None.

    Samples can share a call where they share the value itself, so tensors are told apart by
    identity."""

    content: object

    def rows(self, index: torch.Tensor) -> Shared:
        return self

    def joined(self, others: Sequence[Shared]) -> Shared:
        return self

    def value(self, x: torch.Tensor, t: torch.Tensor) -> object:
        return self.content

    @property
    def signature(self) -> tuple[object, ...]:
        known = id(self.content) if isinstance(self.content, torch.Tensor) else repr(self.content)
        return "shared", known

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Shared:
        if not isinstance(self.content, torch.Tensor):
            return self
        moved = _moved(self.content, device, dtype)
        return self if moved is self.content else Shared(moved)


@dataclasses.dataclass(frozen=True, eq=False)
class Ragged(Leaf):
    """A list of n tensors whose first sizes differ (prompts of several lengths, unpadded)."""

    tensors: tuple[torch.Tensor, ...]

    def rows(self, index: torch.Tensor) -> Ragged:
        return Ragged(tuple(self.tensors[row] for row in index.tolist()))

    def joined(self, others: Sequence[Ragged]) -> Ragged:
        return Ragged((*self.tensors, *(tensor for other in others for tensor in other.tensors)))

    def value(self, x: torch.Tensor, t: torch.Tensor) -> list[torch.Tensor]:
        return list(self.tensors)

    @property
    def signature(self) -> tuple[object, ...]:
        shapes = {(tuple(tensor.shape[1:]), tensor.dtype) for tensor in self.tensors}
        return "ragged", frozenset(shapes)

    @property
    def held(self) -> tuple[torch.Tensor, ...]:
        return self.tensors

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Ragged:
        return Ragged(tuple(_moved(tensor, device, dtype) for tensor in self.tensors))


@dataclasses.dataclass(frozen=True, eq=False)
class Derived(Leaf):
    """The answer of a function to x (n, ...), times t (n,) and another condition: an embedding of
    the level, or what a ControlNet makes of all three. It is computed before the network runs."""

    compute: Callable[[torch.Tensor, torch.Tensor, Condition], torch.Tensor]
    of: Condition

    def rows(self, index: torch.Tensor) -> Derived:
        return dataclasses.replace(self, of=self.of.rows(index))

    def joined(self, others: Sequence[Derived]) -> Derived:
        return dataclasses.replace(self, of=Condition.cat([self.of, *(o.of for o in others)]))

    def value(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return self.compute(x, t, self.of)

    @property
    def signature(self) -> tuple[object, ...]:
        return "derived", id(self.compute), self.of.signature

    @property
    def held(self) -> tuple[torch.Tensor, ...]:
        return self.of.held

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Derived:
        return dataclasses.replace(self, of=self.of.to(device, dtype))


Tree = Mapping[str, Leaf]


@dataclasses.dataclass(frozen=True, eq=False)
class Condition:
    """``n`` samples' branches by name, each a tree of named parts; ``cond`` is always there."""

    n: int
    branches: Mapping[str, Tree]

    @staticmethod
    def none(n: int) -> Condition:
        """The condition of an unconditional model."""
        return Condition(n, {COND: {}})

    @staticmethod
    def labels_of(labels: torch.Tensor, null: int | None = None) -> Condition:
        """Class labels (n,), and the branch ``null`` where ``null`` stands for "no label"."""
        branches: dict[str, Tree] = {COND: {"labels": PerSample(labels)}}
        if null is not None:
            branches[NULL] = {"labels": PerSample(torch.full_like(labels, null))}
        return Condition(len(labels), branches)

    def __len__(self) -> int:
        return self.n

    @property
    def labels(self) -> torch.Tensor | None:
        """The class labels (n,) of the branch ``cond``; None where it has none."""
        leaf = self.branches[COND].get("labels")
        return leaf.tensor if isinstance(leaf, PerSample) else None

    def branch(self, name: str) -> Condition:
        """One branch alone, as its ``cond``.

        Raises:
            UserError: the condition has no such branch.
        """
        if name not in self.branches:
            raise UserError(
                f"guidance needs the branch {name!r}, and this condition has "
                f"{', '.join(self.branches)}; set guidance to 1."
            )
        if len(self.branches) == 1:
            return self
        if name not in self._alone:
            self._alone[name] = Condition(self.n, {COND: self.branches[name]})
        return self._alone[name]

    def rows(self, index: Index) -> Condition:
        """The samples ``index`` (k,), in that order."""
        places = torch.as_tensor(index, dtype=torch.long)
        return self._each(lambda leaf: leaf.rows(places), len(places))

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Condition:
        """The condition on ``device``; floating-point tensors in ``dtype`` where one is given."""
        return self._each(lambda leaf: leaf.to(device, dtype), self.n)

    @staticmethod
    def cat(conditions: Sequence[Condition]) -> Condition:
        """Conditions of equal signature, one after another."""
        first, *others = conditions
        if not others:
            return first
        known = first._joined.get(len(others))
        if known is not None and all(map(operator.is_, known[0], others)):
            return known[1]
        branches = {
            name: {
                key: leaf.joined([other.branches[name][key] for other in others])
                for key, leaf in tree.items()
            }
            for name, tree in first.branches.items()
        }
        whole = Condition(sum(condition.n for condition in conditions), branches)
        first._joined[len(others)] = others, whole  # the next evaluation joins the same ones
        return whole

    def null_where(self, mask: torch.Tensor) -> Condition:
        """The branch ``cond`` alone, replaced by ``null`` for the samples of the mask (n,): label
        dropout (Ho & Salimans 2207.12598). Without a branch ``null`` nothing is replaced."""
        tree, null = self.branches[COND], self.branches.get(NULL)
        if null is None:
            return self.branch(COND)
        chosen: dict[str, Leaf] = {}
        for key, leaf in tree.items():
            other = null[key]
            if isinstance(leaf, PerSample) and isinstance(other, PerSample):
                here = mask.repeat_interleave(leaf.each) if leaf.each > 1 else mask
                wide = here.view(-1, *[1] * (leaf.tensor.ndim - 1))
                leaf = dataclasses.replace(
                    leaf, tensor=torch.where(wide, other.tensor, leaf.tensor)
                )
            chosen[key] = leaf
        return Condition(self.n, {COND: chosen})

    @functools.cached_property
    def _alone(self) -> dict[str, Condition]:
        return {}

    @functools.cached_property
    def _joined(self) -> dict[int, tuple[list[Condition], Condition]]:
        """The last join with so many others."""
        return {}

    @functools.cached_property
    def signature(self) -> tuple[object, ...]:
        """Conditions of equal signature can share a network call."""
        return tuple(
            (name, *((key, *leaf.signature) for key, leaf in tree.items()))
            for name, tree in self.branches.items()
        )

    @property
    def held(self) -> tuple[torch.Tensor, ...]:
        """What its parts hold that its signature does not tell apart."""
        leaves = (leaf for tree in self.branches.values() for leaf in tree.values())
        return tuple(tensor for leaf in leaves for tensor in leaf.held)

    def same(self, other: Condition) -> bool:
        """Whether ``other`` asks for the same, bit for bit."""
        alike = self.n == other.n and self.signature == other.signature
        return alike and all(map(torch.equal, self.held, other.held))

    def values(self, x: torch.Tensor, t: torch.Tensor) -> dict[str, object]:
        """What the network is given, by name, for x (n, ...) at the times t (n,)."""
        return {key: leaf.value(x, t) for key, leaf in self.branches[COND].items()}

    def flat(self, x: torch.Tensor, t: torch.Tensor) -> tuple[Structure, list[torch.Tensor]]:
        """The tensors of the branch ``cond`` one after another, for runtimes that compile a
        network, and what puts them together again."""
        parts: list[tuple[str, int | Shared]] = []
        tensors: list[torch.Tensor] = []
        for key, value in self.values(x, t).items():
            several = list(value) if isinstance(value, (list, tuple)) else [value]
            some = [item for item in several if isinstance(item, torch.Tensor)]
            if len(some) == len(several):
                parts.append((key, len(several) if isinstance(value, (list, tuple)) else 0))
                tensors += some
            else:
                parts.append((key, Shared(value)))
        return Structure(tuple(parts)), tensors

    def _each(self, change: Callable[[Leaf], Leaf], n: int) -> Condition:
        branches = {
            name: {key: change(leaf) for key, leaf in tree.items()}
            for name, tree in self.branches.items()
        }
        return Condition(n, branches)


@dataclasses.dataclass(frozen=True)
class Structure:
    """How the tensors of :meth:`Condition.flat` make a condition: names, and for each how many
    tensors its list has (0 for a tensor that is no list), or the value that is no tensor."""

    parts: tuple[tuple[str, int | Shared], ...]

    @property
    def key(self) -> tuple[object, ...]:
        """Equal for structures that a compiled graph can share."""
        return tuple(
            (name, part.signature if isinstance(part, Shared) else part)
            for name, part in self.parts
        )

    def build(self, tensors: Sequence[torch.Tensor], n: int) -> Condition:
        """The condition of ``n`` samples that ``tensors`` are."""
        left = iter(tensors)
        tree: dict[str, Leaf] = {}
        for name, part in self.parts:
            if isinstance(part, Shared):
                tree[name] = part
            elif part:
                tree[name] = Ragged(tuple(next(left) for _ in range(part)))
            else:
                tree[name] = PerSample(next(left))
        return Condition(n, {COND: tree})


def as_condition(condition: Condition | torch.Tensor | None, n: int) -> Condition:
    """A Condition for ``n`` samples from one, from class labels (n,), or from None.

    Raises:
        UserError: it is neither, or for another number of samples.
    """
    if condition is None:
        return Condition.none(n)
    if isinstance(condition, torch.Tensor):
        condition = Condition.labels_of(condition)
    require(
        isinstance(condition, Condition),
        f"condition is a {type(condition).__name__}; give a Condition, labels (n,), or None.",
    )
    require(len(condition) == n, f"condition is of {len(condition)} samples, and x of {n}.")
    return condition


def _moved(
    tensor: torch.Tensor, device: torch.device | str, dtype: torch.dtype | None
) -> torch.Tensor:
    wide = dtype if dtype is not None and tensor.is_floating_point() else None
    return tensor.to(device=device, dtype=wide)
