"""What a U-Net is told of time and label, worked out before the network runs.

All of it ends as one shift a channel in every residual block, so the rest of the network can take
the shifts of all blocks side by side in place of time and label. They are computed in float32 and
kept: a plan tells few times. A runtime that computes in bfloat16 would round the time itself (363.4
becomes 364), which a student of few levels does not forgive.
"""

from __future__ import annotations

import copy
import threading
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

KEPT = 256  # times


class Told(nn.Module):
    """``net`` as a function of x and the shifts (n, width) that :class:`Shifts` has for it. Where
    ``net`` is itself told more of the time, its ``by_time``, that comes along in their columns."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.integers = getattr(net, "integers", ())
        self._row, first = Row(), 0
        module = _unet(net)
        module.time_proj = module.time_embedding = _Nothing()
        module.class_embedding = None
        for block in _blocks(module):
            last = first + block.time_emb_proj.out_features
            block.time_emb_proj, block.skip_time_act = Columns(self._row, first, last), True
            first = last
        if hasattr(net, "by_time"):
            net.by_time = Columns(self._row, first, None)

    def forward(self, x: torch.Tensor, shifts: torch.Tensor) -> torch.Tensor:
        self._row.now = shifts
        return self.net(x, shifts[:, 0], None)


class Shifts:
    """The shifts of all blocks for times and labels (n,): (n, width), float32."""

    def __init__(self, net: Any) -> None:
        module = _unet(net)
        self._wave, self._time = module.time_proj, module.time_embedding
        self._label, self._more = module.class_embedding, getattr(net, "by_time", None)
        acts = [None if one.skip_time_act else one.nonlinearity for one in _blocks(module)]
        layers = [block.time_emb_proj for block in _blocks(module)]
        self._blocks = list(zip(acts, layers, strict=True))
        self._known: dict[float, torch.Tensor] = {}

    @torch.inference_mode()
    def __call__(self, t: torch.Tensor, cond: torch.Tensor | None) -> torch.Tensor:
        times = t.tolist()
        if len(set(times)) == 1:
            table = self.at(times[0])
            return table.expand(len(t), -1) if cond is None else table[cond]
        tables = torch.stack([self.at(time) for time in times])
        rows = torch.zeros(len(t), dtype=torch.long) if cond is None else cond
        return tables[torch.arange(len(t)), rows]

    def at(self, time: float) -> torch.Tensor:
        """A row of shifts for every label; one row where there are none."""
        if time not in self._known:
            if len(self._known) >= KEPT:
                self._known.clear()
            here = torch.tensor([time], device=self._time.linear_1.weight.device)
            told = self._time(self._wave(here))
            told = told if self._label is None else told + self._label.weight
            parts = [layer(told if act is None else act(told)) for act, layer in self._blocks]
            parts += [] if self._more is None else [self._more(here).expand(len(told), -1)]
            self._known[time] = torch.cat(parts, dim=1)
        return self._known[time]


class Known(nn.Module):
    """``net`` at ``times`` alone: a table (times, labels, width) has its shifts, and the layers
    that make them are gone. A time is answered as the nearest of them."""

    def __init__(self, net: Told, shifts: Shifts, times: Sequence[float]) -> None:
        super().__init__()
        self.net, self.times = net, tuple(times)
        self.register_buffer("table", torch.stack([shifts.at(time) for time in times]).clone())

    def shifts(self, t: torch.Tensor, cond: torch.Tensor | None) -> torch.Tensor:
        """The shifts (n, width) for times and labels (n,)."""
        table: Any = self.table
        label = torch.zeros_like(t, dtype=torch.long) if cond is None else cond
        return table[nearest(t, self.times), label]

    def forward(
        self, x: torch.Tensor, t: torch.Tensor, cond: torch.Tensor | None = None
    ) -> torch.Tensor:
        return self.net(x, self.shifts(t, cond))


def nearest(t: torch.Tensor, times: Sequence[float]) -> torch.Tensor:
    """Which of ``times`` is nearest to each of t (n,)."""
    return (t[:, None] - torch.tensor(times, device=t.device)).abs().argmin(1)


def at_times(net: nn.Module, times: Sequence[float], always: bool = False) -> nn.Module:
    """``net`` as :class:`Known` at ``times``, where it can be and, unless ``always``, that takes
    less memory."""
    found = _apart(net)
    known = net if found is None else Known(*found, times)
    return known if always or _numbers(known) < _numbers(net) else net


def _numbers(net: nn.Module) -> int:
    return sum(one.numel() for one in (*net.parameters(), *net.buffers()))


def told(net: nn.Module) -> tuple[Told, Callable[..., torch.Tensor]] | None:
    """``net`` without its embeddings, and what stands in for them; None where it is no whole U-Net
    with plain ones. The same for every caller, so that what is made of it can be shared."""
    return (net.net, net.shifts) if isinstance(net, Known) else _apart(net)


def _apart(net: nn.Module) -> tuple[Told, Shifts] | None:
    if net not in _KNOWN:
        module = _unet(net)
        plain = None
        if _is_plain(module):
            own = copy.deepcopy(net).float()
            shifts = Shifts(own)  # which keeps the embeddings that Told takes out
            plain = (Told(own), shifts)
        _KNOWN[net] = plain
    return _KNOWN[net]


_KNOWN: weakref.WeakKeyDictionary[nn.Module, tuple[Told, Shifts] | None] = (
    weakref.WeakKeyDictionary()
)


class Row(threading.local):
    """Where parts of a network find ``now`` (n, width), what the call that is going on is told;
    every thread has its own."""

    now: torch.Tensor

    def __deepcopy__(self, memo: dict[int, Any]) -> Row:
        return Row()


class Columns(nn.Module):
    """Stands in for a layer that makes something of the time: its columns of the row."""

    def __init__(self, row: Row, first: int, last: int | None) -> None:
        super().__init__()
        self.row, self.first, self.last = row, first, last

    def forward(self, given: torch.Tensor) -> torch.Tensor:
        return self.row.now[:, self.first : self.last]


class _Nothing(nn.Module):
    """Stands in for an embedding that nobody reads."""

    def forward(self, given: torch.Tensor) -> torch.Tensor:
        return given


def _unet(net: Any) -> Any:
    """The diffusers network within the wrappers that pass time and label through."""
    inner = getattr(net, "net", net)
    return getattr(inner, "module", None) if type(inner).__name__ == "Network" else None


def _blocks(module: Any) -> list[Any]:
    """The residual blocks that are told the time."""
    return [part for part in module.modules() if hasattr(part, "time_emb_proj")]


def _is_plain(module: Any) -> bool:
    if type(module).__name__ != "UNet2DModel" or module.config.class_embed_type is not None:
        return False
    layers = [block.time_emb_proj for block in _blocks(module)]
    return bool(layers) and all(isinstance(layer, nn.Linear) for layer in layers)
