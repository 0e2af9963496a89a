"""What the time and the label say to a network, computed before the network runs.

All of it ends in a few layers (:class:`hasten.core.family.Conditioning`): one shift a channel in
every residual block of a U-Net, shifts, scales and gates in every block of a transformer. So the
rest of the network can take what all these layers give, side by side, in place of the time. It is
computed in float32 and kept, because a plan visits few times. A runtime that computes in bfloat16
would round the time itself (363.4 becomes 364), which a student of few levels does not forgive.
"""

from __future__ import annotations

import copy
import threading
import weakref
from collections.abc import Callable, Sequence

import torch
from torch import nn

from hasten.core.artifact import weights_stamp
from hasten.core.call import Output
from hasten.core.condition import Condition
from hasten.core.errors import UserError, require
from hasten.core.family import Conditioning, family_of, inner

PAGE = 2**20  # numbers that are computed together: neighbouring labels at one time
ROOM = 2**25  # numbers that a cache keeps
LARGEST = 2**28  # numbers of a table that goes into an exported network


class Precomputed(nn.Module):
    """``net`` as a function of x, the row (n, width) that a :class:`ConditioningCache` has for its
    time and label, and the condition, where the rest of the network reads that as well.

    Where ``net`` hears of the time by a module ``by_time`` too, that is in the last columns.
    """

    def __init__(self, net: nn.Module, how: Conditioning, widths: Sequence[int]) -> None:
        super().__init__()
        self.net = net
        self.integers = getattr(net, "integers", ())
        self._row, first = Row(), 0
        for (owner, name), width in zip(how.layers, widths, strict=True):
            setattr(owner, name, Columns(self._row, first, first + width))
            first += width
        how.remove_()
        if hasattr(net, "by_time"):
            net.by_time = Columns(self._row, first, None)

    def forward(
        self,
        x: torch.Tensor,
        row: torch.Tensor,
        condition: Condition | torch.Tensor | None = None,
        *features: torch.Tensor,
    ) -> Output:
        self._row.now = row
        return self.net(x, row[:, 0], condition, *features)


class ConditioningCache:
    """The rows (n, width) for times and labels (n,), float32. What it computed it keeps, as long
    as there is room; rows never depend on what else is asked for.

    Attributes:
        takes_label: the network reads the condition too, beside the row.
        labels, width: the sizes of the table at one time.
    """

    def __init__(self, how: Conditioning, widths: Sequence[int], by_time: nn.Module | None) -> None:
        self._how, self._by_time = how, by_time
        self.takes_label, self.labels = how.takes_label, how.labels
        self.width = sum(widths)
        self.device = next(getattr(*how.layers[0]).parameters()).device
        if by_time is not None:
            self.width += by_time(torch.zeros(1, device=self.device)).shape[1]
        self._page = max(1, PAGE // self.width)
        self._known: dict[tuple[float, int], torch.Tensor] = {}

    @torch.inference_mode()
    def __call__(self, t: torch.Tensor, condition: torch.Tensor | None) -> torch.Tensor:
        times = t.tolist()
        reads = condition is not None and self.labels > 1
        labels = condition.tolist() if condition is not None and reads else [0] * len(times)
        if len(set(times)) == 1 and len(set(labels)) == 1:
            return self._row(times[0], labels[0]).expand(len(times), -1)
        return torch.stack([self._row(*pair) for pair in zip(times, labels, strict=True)])

    @torch.no_grad()
    def at(self, time: float) -> torch.Tensor:
        """The rows (labels, width) for every label; one where the time alone says something."""
        pages = range(0, self.labels, self._page)
        return torch.cat([self._at(time, first) for first in pages])

    def _row(self, time: float, label: int) -> torch.Tensor:
        if not 0 <= label < self.labels:
            raise IndexError(f"label {label} is none of the {self.labels} that the network knows.")
        first = label // self._page * self._page
        return self._at(time, first)[label - first]

    def _at(self, time: float, first: int) -> torch.Tensor:
        """The rows of the page of labels that begins with ``first``."""
        key = (time, first)
        if key not in self._known:
            size = min(self._page, self.labels - first)
            if (len(self._known) + 1) * size * self.width > ROOM:
                self._known.clear()
            here = torch.tensor([time], device=self.device)
            rows = self._how.rows(here, torch.arange(first, first + size, device=self.device))
            if self._by_time is not None:
                rows = torch.cat([rows, self._by_time(here).expand(size, -1)], dim=1)
            self._known[key] = rows
        return self._known[key]


class AtTimes(nn.Module):
    """``net`` at ``times`` alone: a table (times, labels, width) has its rows, and the layers that
    make them are gone. At another time the row of the nearest is taken."""

    table: torch.Tensor

    def __init__(self, net: Precomputed, cache: ConditioningCache, times: Sequence[float]) -> None:
        super().__init__()
        self.net, self.times = net, tuple(times)
        self.takes_label, self.labels = cache.takes_label, cache.labels
        self.register_buffer("table", torch.stack([cache.at(time) for time in times]).clone())

    def rows(self, t: torch.Tensor, condition: torch.Tensor | None) -> torch.Tensor:
        """The rows (n, width) for times and labels (n,)."""
        none = condition is None or self.labels == 1
        label = torch.zeros_like(t, dtype=torch.long) if none else condition
        return self.table[nearest(t, self.times), label]

    def forward(
        self, x: torch.Tensor, t: torch.Tensor, condition: Condition | torch.Tensor | None = None
    ) -> torch.Tensor:
        labels = condition.labels if isinstance(condition, Condition) else condition
        return self.net(x, self.rows(t, labels), condition if self.takes_label else None)


def nearest(t: torch.Tensor, times: Sequence[float]) -> torch.Tensor:
    """Which of ``times`` is nearest to each of t (n,)."""
    return (t[:, None] - torch.tensor(times, device=t.device)).abs().argmin(1)


def at_times(net: nn.Module, times: Sequence[float], always: bool = False) -> nn.Module:
    """``net`` as :class:`AtTimes`, where it can be and, unless ``always``, that takes less memory.

    Raises:
        UserError: ``always``, and the table is larger than 1 GB.
    """
    parts = _parts(net)
    if isinstance(parts, str):
        return net
    precomputed, cache = parts
    table = len(times) * cache.labels * cache.width
    if not always and table + numbers(precomputed) >= numbers(net):
        return net
    require(
        table <= LARGEST,
        f"what {len(times)} times and {cache.labels} labels say to this network are "
        f"{table * 4 / 1e9:.1f} GB in float32, and a table of them may have 1; take fewer "
        "evaluations, or dtype=float32.",
    )
    return AtTimes(precomputed, cache, times)


def numbers(net: nn.Module) -> int:
    """How many numbers the parameters and buffers of ``net`` are."""
    return sum(value.numel() for value in (*net.parameters(), *net.buffers()))


Rows = Callable[[torch.Tensor, torch.Tensor | None], torch.Tensor]
"""Times and labels (n,) to rows (n, width)."""


def conditioning_cache(net: nn.Module) -> tuple[Precomputed, Rows, bool]:
    """``net`` without its embeddings, what makes the rows it takes in their place, and whether it
    takes the condition as well. The same for every caller, so that engines can share it.

    Raises:
        UserError: the network hears of the time in a way that cannot be computed ahead.
    """
    if isinstance(net, AtTimes):
        return net.net, net.rows, net.takes_label
    parts = _parts(net)
    if isinstance(parts, str):
        raise UserError(parts)
    return parts[0], parts[1], parts[1].takes_label


def _parts(net: nn.Module) -> Parts | str:
    """The two parts of ``net``, or why there are none."""
    stamp = weights_stamp(net)
    if net not in _KNOWN or _KNOWN[net][0] != stamp:
        _KNOWN[net] = stamp, _taken_apart(net)
    return _KNOWN[net][1]


def _taken_apart(net: nn.Module) -> Parts | str:
    family = family_of(net)
    try:
        family.conditioning(net)
    except UserError as error:
        return str(error)
    own = copy.deepcopy(net).float()
    how = family.conditioning(own)
    layers = [getattr(owner, name) for owner, name in how.layers]
    if not all(isinstance(layer, nn.Linear) for layer in layers):
        return (
            f"the layers of this {type(inner(net)).__name__} that read the time are not linear "
            "ones, so what it says to them cannot be computed ahead."
        )
    widths = [layer.out_features for layer in layers]
    # The cache keeps the layers that Precomputed then takes out of the network.
    cache = ConditioningCache(how, widths, getattr(own, "by_time", None))
    return Precomputed(own, how, widths), cache


Parts = tuple[Precomputed, ConditioningCache]

_KNOWN: weakref.WeakKeyDictionary[nn.Module, tuple[object, Parts | str]] = (
    weakref.WeakKeyDictionary()
)
"""By network: its :func:`weights_stamp`, and its parts or why it has none."""


class Row(threading.local):
    """Where parts of a network find ``now`` (n, width), the row of the call that is going on;
    every thread has its own."""

    now: torch.Tensor

    def __deepcopy__(self, memo: dict[int, object]) -> Row:
        return Row()


class Columns(nn.Module):
    """Stands in for a layer that makes something of the time: its columns of the row."""

    def __init__(self, row: Row, first: int, last: int | None) -> None:
        super().__init__()
        self.row, self.first, self.last = row, first, last

    def forward(self, unread: torch.Tensor) -> torch.Tensor:
        return self.row.now[:, self.first : self.last]
