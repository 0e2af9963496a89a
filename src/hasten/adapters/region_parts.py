"""The parts of a U-Net that can be computed where their input differs from an earlier one.

Each part has slots: what an ordinary run keeps of it, its output first. With what was kept, it says
what stands in for its modules: convolutions run on gathered tiles, attention and all that sees one
cell at a time on gathered cells. Group normalisation takes the statistics of the earlier run (as
SIGE does, 2211.02048), as a factor and a shift of each channel.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import nn
from torch.nn import functional
from torch.utils import _pytree as pytree

from hasten.adapters.standing_in import Forward
from hasten.adapters.tiles import Changes, Grid, Size, Tokens, Window
from hasten.adapters.untyped import Answer, Net
from hasten.core.errors import require

Keep = Callable[[torch.Tensor, Answer], torch.Tensor]
"""What is kept of a module, from what it was given and what it gave."""
StandIn = tuple[nn.Module, Callable[[Forward], Forward]]


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Slot:
    """What is kept of one module: ``keep`` of its input and output, with ``width`` channels where
    they are known. Where ``query`` is given, only if both were given the same: of self-attention.
    """

    module: nn.Module
    keep: Keep
    width: int | None = None
    query: nn.Module | None = None


class Part(ABC):
    """A part of a network that can be computed where its input differs."""

    slots: tuple[Slot, ...]

    @abstractmethod
    def stand_ins(self, kept: Sequence[torch.Tensor], changes: Changes) -> list[StandIn]:
        """What stands in for its modules where ``kept`` holds a tensor for each slot, empty for
        attention to something else."""


class Convolution(Part):
    """A convolution, with what normalises its input and what grows it, if anything does.

    Attributes:
        module: what is called, which gives what the convolution ``conv`` gives.
        before: a normalisation and an activation that run before it, on their own.
        grows: the input is made larger by repeating cells, to the size of the kept output.
    """

    def __init__(
        self,
        module: nn.Module,
        conv: nn.Conv2d,
        window: Window,
        before: tuple[nn.GroupNorm, nn.Module] | None = None,
        grows: bool = False,
    ) -> None:
        self.module, self.conv, self.window = module, conv, window
        self.before, self.grows = before, grows
        slots = [Slot(module=module, keep=_map, width=conv.out_channels)]
        self.slots = (*slots, *([_statistics_of(before[0])] if before else []))

    def stand_ins(self, kept: Sequence[torch.Tensor], changes: Changes) -> list[StandIn]:
        output = kept[0]
        put_off: list[Forward] = []  # what would run before, on whole maps

        def skipped(forward: Forward) -> Forward:
            put_off.append(forward)
            return lambda x: x

        def convolved(_: Forward) -> Forward:
            def run(x: torch.Tensor, *_: object, **__: object) -> torch.Tensor:
                given = _size(x)
                grown = (output.shape[1], output.shape[2]) if self.grows else given
                grid = _grid(output, changes, len(x), self.window.outputs(grown))
                if grid.empty:
                    return grid.put(output, None)
                reach = grid.reach(self.window, given, grown)
                cells = reach.take(x)
                if put_off:
                    cells = put_off[-1](_affine(cells, _of_tiles(kept[1], grid)))
                return grid.put(output, _convolve(self.conv, reach.map(cells)))

            return run

        return [(self.module, convolved), *((module, skipped) for module in self.before or ())]


class Residual(Part):
    """Two convolutions with their normalisations, and what goes past them. What the first one gives
    is kept too, so that neither computes more than its tiles."""

    def __init__(self, block: Net) -> None:
        self.block = block
        self.windows = tuple(Window.of(conv) for conv in (block.conv1, block.conv2))
        self.slots = (
            Slot(module=block, keep=_map, width=block.conv2.out_channels),
            Slot(module=block.conv1, keep=_map, width=block.conv1.out_channels),
            _statistics_of(block.norm1),
            _statistics_of(block.norm2),
        )

    def stand_ins(self, kept: Sequence[torch.Tensor], changes: Changes) -> list[StandIn]:
        block, (output, middle, first, second) = self.block, kept

        def residual(_: Forward) -> Forward:
            def run(
                x: torch.Tensor, temb: torch.Tensor | None = None, *_: object, **__: object
            ) -> torch.Tensor:
                size = _size(x)
                grid = _grid(output, changes, len(x), size)
                if grid.empty:
                    return grid.put(output, None)
                reach = grid.reach(self.windows[0], size, size)
                near = reach.take(x)
                hidden = block.nonlinearity(_affine(near, _of_tiles(first, grid)))
                hidden = _convolve(block.conv1, reach.map(hidden))
                after = grid.reach(self.windows[1], size, size)
                norm = _of_tiles(self._timed(second, temb), grid)
                hidden = block.nonlinearity(_affine(after.overlaid(middle, hidden), norm))
                hidden = _convolve(block.conv2, after.map(block.dropout(hidden)))
                past = self._past(near, grid.tile)
                return grid.put(output, (past + hidden) / block.output_scale_factor)

            return run

        return [(block, residual)]

    def _timed(self, norm: torch.Tensor, temb: torch.Tensor | None) -> torch.Tensor:
        """The factor and shift ``norm`` (n, 2, c) of the second normalisation, with the embedding
        of time, which is added before it or scales and shifts what it gives."""
        block = self.block
        if block.time_emb_proj is None or temb is None:
            return norm
        time = block.time_emb_proj(temb if block.skip_time_act else block.nonlinearity(temb))
        factor, shift = norm.unbind(1)
        if block.time_embedding_norm == "default":
            return torch.stack([factor, shift + time * factor], 1)
        scale, more = time.chunk(2, 1)
        return torch.stack([factor * (1 + scale), shift * (1 + scale) + more], 1)

    def _past(self, near: torch.Tensor, tile: int) -> torch.Tensor:
        """What goes past the convolutions (t, c, tile, tile), from what the first one reads."""
        edge = self.windows[0].before
        side = tile + 2 * edge
        centre = near.unflatten(1, (side, side))[:, edge : edge + tile, edge : edge + tile]
        maps = centre.permute(0, 3, 1, 2)
        shortcut = self.block.conv_shortcut
        return maps if shortcut is None else shortcut(maps)


class Attending(Part):
    """A module that sees one cell at a time but for normalisation and self-attention: it runs as it
    is, on maps (n, c, length, 1) of the cells that differ. These attend to the kept keys and values
    of all other cells."""

    def __init__(
        self, module: nn.Module, norm: nn.GroupNorm | None, attentions: Sequence[Net]
    ) -> None:
        self.module, self.norm = module, norm
        self.keys = tuple(
            Slot(module=layer, keep=_given, query=attention.to_q)
            for attention in attentions
            for layer in (attention.to_k, attention.to_v)
        )
        width = norm.num_channels if norm is not None else None
        norms = () if norm is None else (_statistics_of(norm),)
        self.slots = (Slot(module=module, keep=_map, width=width), *norms, *self.keys)

    def stand_ins(self, kept: Sequence[torch.Tensor], changes: Changes) -> list[StandIn]:
        output, rest = kept[0], list(kept[1:])
        size = (output.shape[1], output.shape[2])
        tokens = changes.grid(len(output), size).tokens

        def attending(forward: Forward) -> Forward:
            def run(x: torch.Tensor, *inputs: object, **options: object) -> Answer:
                _grid(output, changes, len(x), _size(x))
                require(
                    options.get("attention_mask") is None,
                    "attention_mask is given, but a network that is computed in regions cannot "
                    "hide cells from its self-attention; leave it out.",
                )
                answer = forward(tokens.take(x), *inputs, **options)
                return pytree.tree_map(
                    lambda part: tokens.put(output, _listed(part)).permute(0, 3, 1, 2), answer
                )

            return run

        found: list[StandIn] = [(self.module, attending)]
        if self.norm is not None:
            found.append((self.norm, _frozen(rest.pop(0))))
        found += [
            (slot.module, _among_all(keys, tokens))
            for slot, keys in zip(self.keys, rest, strict=True)
            if keys.numel() > 0
        ]
        return found


def _frozen(kept: torch.Tensor) -> Callable[[Forward], Forward]:
    """A normalisation that takes the statistics that were kept."""

    def make(_: Forward) -> Forward:
        def run(x: torch.Tensor) -> torch.Tensor:
            norm = kept.reshape(*kept.shape, *[1] * (x.ndim - 2))
            return _affine(x, norm)

        return run

    return make


def _among_all(kept: torch.Tensor, tokens: Tokens) -> Callable[[Forward], Forward]:
    """The keys or values of some tokens among the kept ones of all."""

    def make(forward: Forward) -> Forward:
        return lambda x, *inputs, **options: tokens.put(kept, forward(x, *inputs, **options))

    return make


def _convolve(conv: nn.Conv2d, maps: torch.Tensor) -> torch.Tensor:
    """``conv`` of maps that hold all that it reads."""
    return functional.conv2d(maps, conv.weight, conv.bias, conv.stride, 0, 1, conv.groups)


def _affine(x: torch.Tensor, norm: torch.Tensor) -> torch.Tensor:
    """x times ``norm[:, 0]`` plus ``norm[:, 1]``, in the precision of the statistics."""
    factor, shift = norm.unbind(1)
    return torch.addcmul(shift, x.to(shift.dtype), factor).to(x.dtype)


def _of_tiles(norm: torch.Tensor, grid: Grid) -> torch.Tensor:
    """A factor and shift (n, 2, c) of each row, for the cells (t, cells, c) of its tiles."""
    return norm.index_select(0, grid.row).unsqueeze(2)


def _statistics_of(norm: nn.GroupNorm) -> Slot:
    """Keeps what ``norm`` multiplies each channel by and adds to it (n, 2, c): the mean and the
    variance of its input, with its weights."""

    def keep(x: torch.Tensor, _: Answer) -> torch.Tensor:
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        variance, mean = torch.var_mean(wide.reshape(len(x), norm.num_groups, -1), 2, correction=0)
        each = norm.num_channels // norm.num_groups
        factor = (variance + norm.eps).rsqrt().repeat_interleave(each, 1)
        shift = -mean.repeat_interleave(each, 1) * factor
        if norm.affine:
            factor, shift = factor * norm.weight, shift * norm.weight + norm.bias
        return torch.stack([factor, shift], 1)

    return Slot(module=norm, keep=keep, width=norm.num_channels)


def _map(_: torch.Tensor, answer: Answer) -> torch.Tensor:
    """The map that a module gave, by its cells (n, h, w, c)."""
    x: torch.Tensor = pytree.tree_leaves(answer)[0]
    return x.permute(0, 2, 3, 1).clone(memory_format=torch.contiguous_format)


def _given(_: torch.Tensor, answer: Answer) -> torch.Tensor:
    return answer


def _listed(x: torch.Tensor) -> torch.Tensor:
    """Maps (n, c, length, 1) as tokens (n, length, c)."""
    return x.flatten(2).transpose(1, 2)


def _size(x: torch.Tensor) -> Size:
    return x.shape[2], x.shape[3]


def _grid(kept: torch.Tensor, changes: Changes, rows: int, size: Size) -> Grid:
    """The tiles of a map of ``rows`` and this ``size``, if that is what was ``kept`` of it."""
    require(
        kept.shape[:3] == (rows, *size),
        f"features are of {kept.shape[0]} maps of {kept.shape[1]} x {kept.shape[2]}, but this run "
        f"has {rows} of {size[0]} x {size[1]}; give those of a full run at this size and batch.",
    )
    return changes.grid(rows, size)
