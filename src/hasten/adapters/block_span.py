"""Feature caches of a network of any class, whose forward need not be known.

While the network runs, its blocks are watched or stand aside: in full, what enters the first and
leaves the last is compared; with what was kept, every block hands on what it was given, and the
last adds what the run of blocks added before. Which argument of the next block an output becomes is
seen, not told: it is the same tensor.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from hasten.adapters.standing_in import Forward, Run, standing_in
from hasten.core.errors import require
from hasten.core.feature_cache import Features

STACKS = ("transformer_blocks", "single_transformer_blocks", "blocks", "layers")
STACKS += ("visual_transformer_blocks", "double_stream_blocks", "single_stream_blocks")
STACKS += ("joint_transformer_blocks",)
TOKENS = "hidden_states"  # the argument that tells how far a block moved on, where there are others

Given = Mapping[str, torch.Tensor]
Gave = tuple[torch.Tensor | None, ...]
Names = tuple[str | None, ...]


@dataclasses.dataclass(frozen=True)
class Passed:
    """One call of a block: its tensors by the names of its arguments, and its outputs; ``single``
    where it gave no tuple."""

    given: Given
    gave: Gave
    single: bool


@dataclasses.dataclass(frozen=True)
class Ports:
    """Which argument each output of a block stands for; None for an output that is None."""

    names: Names
    single: bool

    def outputs(self, values: Given, added: Features = ()) -> Any:
        """The outputs of a block that hands on ``values``, and adds ``added``."""
        more = iter(added or [None] * len(self.names))
        parts = tuple(
            None if name is None else _plus(values[name], next(more)) for name in self.names
        )
        return parts[0] if self.single else parts


class BlockSpan:
    """Keeps what the blocks ``first`` to ``last`` of a network add, counted in the order in which
    it runs them.

    Raises:
        UserError: the network has no blocks that are known, or not these.
    """

    def __init__(self, module: nn.Module, first: int, last: int) -> None:
        self.kind = type(module).__name__
        self.blocks = blocks_of(module)
        count = len(self.blocks)
        self.first, self.last = first, last_block(first, last, count, self.kind)
        self._arguments = [_arguments(block) for block in self.blocks]
        self._ports: dict[int, Ports] = {}
        self._whole = Ports((), False)  # of the span, as if it were one block

    def __call__(self, run: Run, n: int, features: Features = ()) -> Any:
        """The answer of ``run``, which calls the network for ``n`` samples: with what was kept, or
        in full as (answer, features)."""
        return self.cached(run, features) if features else self.full(run, n)

    def full(self, run: Run, n: int) -> tuple[Any, Features]:
        """The answer, and what the blocks added: tensors (n, ...)."""
        every, passed = range(len(self.blocks)), {}
        handed: dict[int, Gave] = {}

        def watched(number: int, forward: Forward) -> Forward:
            def watch(*inputs: Any, **options: Any) -> Any:
                require(
                    not passed or max(passed) < number,
                    f"{self.kind} does not run its blocks once each, in their order, which a "
                    "feature cache needs; drop the lever.",
                )
                output = forward(*inputs, **options)
                here = self.call(number, inputs, options, output)
                if not self._ports or number in (self.first, self.last):
                    passed[number] = here
                self._follow_(handed, number, here.given, here.gave)
                return output

            return watch

        span = range(self.first, self.last + 1)
        with standing_in(self.blocks, span if self._ports else every, watched):
            answer = run()
        if not self._ports:
            self._learn_(passed)
        self._require_run(passed, (self.first, self.last))
        return answer, self.added(passed[self.first].given, passed[self.last].gave, n)

    def cached(self, run: Run, features: Features) -> Any:
        """The answer where the blocks add ``features``."""
        handed: dict[int, Gave] = {}

        def aside(number: int, forward: Forward) -> Forward:
            def hand_on(*inputs: Any, **options: Any) -> Any:
                given = self.given(number, inputs, options)
                output = self.handed_on(number, given, features)
                gave = (output,) if isinstance(output, torch.Tensor) else output
                self._follow_(handed, number, given, gave)
                return output

            return hand_on

        with standing_in(self.blocks, range(self.first, self.last + 1), aside):
            return run()

    def _follow_(self, handed: dict[int, Gave], number: int, given: Given, gave: Gave) -> None:
        """Refuse a network that changes what one block of the span hands on to the next."""
        before = handed.pop(number - 1, ()) if self.first < number <= self.last else ()
        require(
            all(
                output is None or any(value is output for value in given.values())
                for output in before
            ),
            f"{self.kind} changes what its block {number - 1} hands on to block {number}, so no "
            "feature cache spans both; give first and last on one side.",
        )
        handed[number] = gave

    def _require_run(self, passed: Mapping[int, Passed], numbers: Iterable[int]) -> None:
        missing = [number for number in numbers if number not in passed]
        require(
            not missing,
            f"{self.kind} did not run its blocks {missing}, which a feature cache of blocks "
            f"{self.first} to {self.last} needs; give others, or drop the lever.",
        )

    def given(
        self, number: int, inputs: tuple[object, ...], options: Mapping[str, object]
    ) -> Given:
        """The tensors that block ``number`` is called with, by the names of its arguments."""
        named = {**dict(zip(self._arguments[number], inputs, strict=False)), **options}
        return {name: value for name, value in named.items() if isinstance(value, torch.Tensor)}

    def call(
        self, number: int, inputs: tuple[object, ...], options: Mapping[str, object], output: Any
    ) -> Passed:
        """One call of block ``number``."""
        single = isinstance(output, torch.Tensor)
        gave = (output,) if single else tuple(output)
        return Passed(self.given(number, inputs, options), gave, single)

    def added(self, given: Given, gave: Gave, n: int) -> Features:
        """What was added between the first block's arguments and the last one's outputs."""
        pairs = zip(self._whole.names, gave, strict=True)
        parts = (
            after - given[name] for name, after in pairs if name is not None and after is not None
        )
        return tuple(part.unflatten(0, (n, -1)) for part in parts)

    def handed_on(self, number: int, given: Given, features: Features) -> Any:
        """The outputs of a block of the span that stands aside."""
        return self._ports[number].outputs(given, features if number == self.last else ())

    def left(self, entered: Given, features: Features) -> Any:
        """The outputs of the last block, from the arguments of the first and what all added."""
        return self._whole.outputs(entered, features)

    @property
    def tokens(self) -> int:
        """The number of the feature that tells how far the blocks moved on."""
        names = [name for name in self._whole.names if name is not None]
        return names.index(TOKENS) if TOKENS in names else 0

    @property
    def kept(self) -> int:
        """How many tensors are kept."""
        return sum(name is not None for name in self._whole.names)

    def _learn_(self, passed: Mapping[int, Passed]) -> None:
        """Find out which argument each output stands for, and which argument of the first block
        becomes each output of the last."""
        numbers = range(self.first, self.last + 1)
        self._require_run(passed, numbers)
        entered = {
            number: _entered(here, passed[number + 1])
            for number, here in passed.items()
            if number + 1 in passed
        }
        alike = {
            type(self.blocks[number]): names
            for number, names in entered.items()
            if type(self.blocks[number]) is type(self.blocks[number + 1]) and None not in names
        }
        ports: dict[int, Ports] = {}
        source: dict[str, str] = {name: name for name in passed[self.first].given}
        for number in numbers:
            here, after = passed[number], entered.get(number, ())
            names = alike.get(type(self.blocks[number])) or self._roles(number, here, after)
            ports[number] = Ports(_where_given(names, here.gave), here.single)
            if number < self.last:
                pairs = zip(after, ports[number].names, strict=True)
                source = {there: source[name] for there, name in pairs if there and name}
        last = ports[self.last]
        self._whole = Ports(tuple(name and source[name] for name in last.names), last.single)
        self._ports = ports

    def _roles(self, number: int, here: Passed, after: Names) -> Names:
        """Which argument each output of a block stands for that has no neighbour of its class."""
        names: list[str | None] = []
        for place, output in enumerate(here.gave):
            fits = [
                name
                for name, value in here.given.items()
                if output is not None and value.shape == output.shape and name not in names
            ]
            same = after[place] if place < len(after) else None
            chosen = same if same in fits else fits[0] if len(fits) == 1 or here.single else None
            require(
                output is None or chosen is not None,
                f"{self.kind}: what the outputs of its block {number} stand for cannot be seen, so "
                "no feature cache spans it; drop the lever.",
            )
            names.append(chosen)
        return tuple(names)


def last_block(first: int, last: int, count: int, kind: str) -> int:
    """The number of block ``last`` of ``count``, where -1 is the last.

    Raises:
        UserError: there are no blocks from ``first`` to ``last``.
    """
    end = last + count if last < 0 else last
    require(
        0 <= first <= end < count,
        f"lever options first and last are {first} and {last}, but this {kind} has {count} blocks; "
        f"give first <= last from 0 to {count - 1} (-1 is the last).",
    )
    return end


def blocks_of(module: nn.Module) -> list[nn.Module]:
    """The blocks of a network, in the order in which it runs them.

    Raises:
        UserError: it has none that are known.
    """
    stacks = [getattr(module, name, None) for name in STACKS]
    blocks = [block for stack in stacks if isinstance(stack, nn.ModuleList) for block in stack]
    require(
        len(blocks) > 0,
        f"no feature cache of blocks can split a {type(module).__name__}, which has no list of "
        "them; use a cache for U-Nets: deep or encoder.",
    )
    return blocks


def _arguments(block: nn.Module) -> tuple[str, ...]:
    """What the ``forward`` of a block takes, in order."""
    return tuple(inspect.signature(type(block).forward).parameters)[1:]


def _entered(here: Passed, after: Passed) -> Names:
    """The argument of the next block that each output is."""
    return tuple(
        next((name for name, value in after.given.items() if value is output), None)
        for output in here.gave
    )


def _where_given(names: Names, gave: Gave) -> Names:
    """``names`` of the outputs that are not None."""
    pairs = zip(names, gave, strict=True)
    return tuple(None if output is None else name for name, output in pairs)


def _plus(value: torch.Tensor, feature: torch.Tensor | None) -> torch.Tensor:
    """``value``, and a feature (n, ...) of it."""
    return value if feature is None else value + feature.flatten(0, 1)
