"""Where maps differ from earlier ones, as tiles that are gathered, computed in one batch and put
back (SIGE, 2211.02048, section 3.2).

Maps are read by their cells: (n, c, h, w) is (n * h * w, c), row by row, so that one index picks
cells of any samples of a batch, and what it picks lies together in memory. Every index depends on
the mask and on sizes alone; it is made once and serves all layers of that size.
"""

from __future__ import annotations

import dataclasses
import functools

import torch
from torch import nn
from torch.nn import functional

from hasten.core.errors import require, require_number, require_whole

Size = tuple[int, int]
"""Height and width."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tiling:
    """How closely the recomputed part of a map follows the mask.

    Attributes:
        tile: the side of a tile of outputs, in cells.
        share: a cell of a smaller map counts where more than this share of what it covers differs;
            0 takes every cell that covers a difference.
        dilate: by how many cells the mask grows at every size.
        least: maps with a shorter side than this are computed in full.
        multiple: the number of tiles, and of tokens, is rounded up to a multiple of this, so that
            shapes repeat.
    """

    tile: int = 4
    share: float = 0.3
    dilate: int = 1
    least: int = 16
    multiple: int = 1

    def __post_init__(self) -> None:
        require_whole("tile", self.tile, 1, 64)
        require_number("share", self.share, 0.0, 0.99)
        require_whole("dilate", self.dilate, 0, 64)
        require_whole("least", self.least, 1, 10_000)
        require_whole("multiple", self.multiple, 1, 10_000)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Window:
    """The cells that a convolution reads for each of its outputs: ``kernel`` on a side, ``stride``
    apart, of a map with zeros ``before`` and ``after`` it."""

    kernel: int
    stride: int
    before: int
    after: int

    @classmethod
    def of(cls, conv: nn.Conv2d, after: int = 0) -> Window:
        """What ``conv`` reads, with ``after`` more zeros at the end of its input."""
        before, kernel, stride = int(conv.padding[0]), conv.kernel_size[0], conv.stride[0]
        return cls(kernel=kernel, stride=stride, before=before, after=before + after)

    def outputs(self, size: Size) -> Size:
        """The size of what a map of this ``size`` becomes."""
        more = self.before + self.after - self.kernel
        return (size[0] + more) // self.stride + 1, (size[1] + more) // self.stride + 1


class Changes:
    """Where the input of a network differs from an earlier one: ``mask`` (n, 1, h, w) is True
    there. Keep it for as long as the mask stays the same, and no index is made twice."""

    def __init__(self, mask: torch.Tensor, tiling: Tiling) -> None:
        good = mask.ndim == 4 and mask.shape[1] == 1 and mask.dtype == torch.bool
        require(
            good,
            f"mask is {mask.dtype} of shape {tuple(mask.shape)}; it takes booleans of shape "
            "(n, 1, height, width).",
        )
        self.mask, self.tiling = mask, tiling
        self._grids: dict[tuple[int, Size], Grid] = {}

    def grid(self, rows: int, size: Size) -> Grid:
        """The tiles of maps of this ``size``, of which each sample has ``rows / n``."""
        if (rows, size) not in self._grids:
            share = functional.adaptive_avg_pool2d(self.mask.float(), size)
            smaller = (share > self.tiling.share + 1e-6).float()  # 1e-6: of rounding
            grow = self.tiling.dilate
            grown = functional.max_pool2d(smaller, 2 * grow + 1, stride=1, padding=grow)
            every = grown.repeat_interleave(rows // len(self.mask), 0)
            self._grids[rows, size] = Grid(every > 0, self.tiling)
        return self._grids[rows, size]


class Grid:
    """The tiles, and the single cells, of maps of one size that are computed anew.

    Attributes:
        empty: no tile is.
        row: the row of the batch that each tile (t,) lies in.
        corner: the y and the x (t,) of its first cell.
        source, target: which cells of the tiles lie in the maps, and where in them.
        cells: how many cells all maps have.
    """

    def __init__(self, mask: torch.Tensor, tiling: Tiling) -> None:
        self.tile, self.multiple = tiling.tile, tiling.multiple
        self._mask, self.cells = mask[:, 0], mask.numel()
        self._reaches: dict[tuple[Window, Size, Size], Reach] = {}
        height, width = mask.shape[2:]
        touched = functional.max_pool2d(mask.float(), self.tile, ceil_mode=True)[:, 0]
        found = touched.nonzero()
        count = len(found)
        self.empty = count == 0
        padded = functional.pad(found, (0, 0, 0, -count % self.multiple))
        self.row, *places = padded.unbind(1)
        self.corner = [self.tile * place for place in places]
        inside = torch.arange(self.tile, device=mask.device)
        y, x = ((first[:, None] + inside) for first in self.corner)
        numbers = _cells(self.row, y, x, (height, width))
        good = (y < height)[:, :, None] & (x < width)[:, None, :]
        good[count:] = False
        self.source = good.flatten().nonzero()[:, 0]
        self.target = numbers.flatten().index_select(0, self.source)

    def reach(self, window: Window, given: Size, grown: Size) -> Reach:
        """What the tiles read of maps of the size ``given``, made ``grown`` by repeating cells."""
        key = window, given, grown
        if key not in self._reaches:
            self._reaches[key] = Reach(self, window, given, grown)
        return self._reaches[key]

    def put(self, kept: torch.Tensor, tiles: torch.Tensor | None) -> torch.Tensor:
        """A new map (n, c, h, w): ``kept`` (n, h, w, c), with ``tiles`` (t, c, tile, tile) in their
        places."""
        out = kept.clone(memory_format=torch.contiguous_format)
        if tiles is not None:
            _put_(out, self.target, cells_of(tiles).index_select(0, self.source))
        return out.permute(0, 3, 1, 2)

    @functools.cached_property
    def tokens(self) -> Tokens:
        """The cells of each row that differ, one by one."""
        return Tokens(self._mask, self.multiple)


class Reach:
    """What the tiles of a grid read of the maps before them, as (t, side * side) cells."""

    def __init__(self, grid: Grid, window: Window, given: Size, grown: Size) -> None:
        self.side = (grid.tile - 1) * window.stride + window.kernel
        self._grid = grid
        steps = torch.arange(self.side, device=grid.row.device) - window.before
        places, good = [], []
        for first, old, new in zip(grid.corner, given, grown, strict=True):
            place = first[:, None] * window.stride + steps
            good.append((place >= 0) & (place < new))
            places.append(place.clamp(0, new - 1) * old // new)
        y, x = places
        self.index = _cells(grid.row, y, x, given).flatten()
        outside = ~(good[0][:, :, None] & good[1][:, None, :]).flatten(1)[..., None]
        self._outside = outside if bool(outside.any()) else None

    def take(self, x: torch.Tensor) -> torch.Tensor:
        """(t, side * side, c) of the maps x (n, c, h, w)."""
        picked = cells_of(x).index_select(0, self.index)
        return picked.view(-1, self.side**2, x.shape[1])

    def overlaid(self, kept: torch.Tensor, tiles: torch.Tensor) -> torch.Tensor:
        """(t, side * side, c) of the maps ``kept`` (n, h, w, c) with ``tiles`` (t, c, tile, tile)
        in their places, which are never put together."""
        picked = kept.flatten(0, 2).index_select(0, self.index)
        here, there = self._within
        picked.index_copy_(0, here, cells_of(tiles).index_select(0, there).to(kept.dtype))
        return picked.view(-1, self.side**2, kept.shape[-1])

    def map(self, cells: torch.Tensor) -> torch.Tensor:
        """The cells (t, side * side, c) as maps (t, c, side, side), zero beyond the whole map."""
        if self._outside is not None:
            cells = cells.masked_fill(self._outside, 0.0)
        return cells.unflatten(1, (self.side, self.side)).permute(0, 3, 1, 2)

    @functools.cached_property
    def _within(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Which of the cells read are cells of tiles, and which ones."""
        grid = self._grid
        place = torch.full((grid.cells,), -1, device=self.index.device)
        place[grid.target] = grid.source
        found = place.index_select(0, self.index)
        here = (found >= 0).nonzero()[:, 0]
        return here, found.index_select(0, here)


class Tokens:
    """The cells of each row that differ, as many of every row (n, length): the longest row's. What
    fills up the others is computed too, and left out when all are put back."""

    def __init__(self, mask: torch.Tensor, multiple: int) -> None:
        flat = mask.flatten(1)
        counts = flat.sum(1)
        cells = flat.shape[1]
        longest = max(int(counts.max()), 1)
        self.length = min(-(-longest // multiple) * multiple, cells)
        order = flat.byte().argsort(dim=1, descending=True, stable=True)[:, : self.length]
        index = order + cells * torch.arange(len(flat), device=mask.device)[:, None]
        real = torch.arange(self.length, device=mask.device) < counts[:, None]
        self._index, self._source = index.flatten(), real.flatten().nonzero()[:, 0]
        self._target = self._index.index_select(0, self._source)

    def take(self, x: torch.Tensor) -> torch.Tensor:
        """The tokens of the maps x (n, c, h, w), as maps (n, c, length, 1)."""
        picked = cells_of(x).index_select(0, self._index)
        return picked.view(len(x), self.length, 1, x.shape[1]).permute(0, 3, 1, 2)

    def put(self, kept: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """A new tensor: ``kept`` (n, ..., c), with ``tokens`` (n, length, c) in their places."""
        out = kept.clone(memory_format=torch.contiguous_format)
        _put_(out, self._target, tokens.flatten(0, 1).index_select(0, self._source))
        return out


def cells_of(x: torch.Tensor) -> torch.Tensor:
    """The cells (n * h * w, c) of maps x (n, c, h, w)."""
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])


def _cells(row: torch.Tensor, y: torch.Tensor, x: torch.Tensor, size: Size) -> torch.Tensor:
    """The numbers (t, a, b) of the cells at y (t, a) and x (t, b) of ``row`` (t,)."""
    return ((row[:, None] * size[0] + y) * size[1])[:, :, None] + x[:, None, :]


def _put_(out: torch.Tensor, target: torch.Tensor, cells: torch.Tensor) -> None:
    out.view(-1, out.shape[-1]).index_copy_(0, target, cells.to(out.dtype))
