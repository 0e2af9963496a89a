"""A U-Net that is computed only where its input differs from an earlier one (SIGE, 2211.02048).

An ordinary run keeps the map after every convolution and attention, and the statistics of every
normalisation. A later run at the same time and condition computes the tiles that a mask touches,
and takes all else from what was kept: outside of them its answer is the earlier one, bit for bit.
What it gives up: the statistics are the earlier ones, and what the tiles would change around them
is left out. Small maps, of which a tile is a large part, are computed in full.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from hasten.adapters.region_parts import Part, Slot, StandIn
from hasten.adapters.region_search import parts_of
from hasten.adapters.standing_in import Forward, Run, standing_in
from hasten.adapters.tiles import Changes, Tiling
from hasten.adapters.untyped import Answer, Net
from hasten.core.errors import require
from hasten.core.feature_cache import Features

NAMES = ("conv_in", "down_blocks", "mid_block", "up_blocks", "conv_out")


class Regions:
    """Computes a U-Net in full, keeping what a run in regions needs, or in regions.

    Attributes:
        parts: what is computed in regions; every other module of the network runs in full.

    Raises:
        UserError: the network has no residual blocks or attention of 2-D maps.
    """

    def __init__(self, unet: Net, tiling: Tiling | None = None) -> None:
        self.kind, self.tiling = type(unet).__name__, tiling or Tiling()
        self.parts = parts_of(unet) if all(hasattr(unet, name) for name in NAMES) else []
        require(
            any(len(part.slots) > 2 for part in self.parts),
            f"a {self.kind} has no residual blocks or attention of 2-D maps that can be computed "
            "in regions; give a U-Net such as UNet2DModel or UNet2DConditionModel.",
        )
        self.entry: nn.Module = unet.conv_in
        self.slots = [slot for part in self.parts for slot in part.slots]

    def full(self, run: Run, n: int) -> tuple[Answer, Features]:
        """The answer of ``run``, which calls the network once for ``n`` samples, and what is kept:
        tensors (n, rows of a sample, ...), those of maps that always run in full empty."""
        seen = _Seen(self.parts, self.tiling.least)
        with standing_in(seen.modules, range(len(seen.modules)), seen.watched):
            answer = run()
        missing = len(self.slots) - len(seen.kept)
        require(
            missing == 0,
            f"{self.kind} did not run {missing} of {len(self.slots)} modules of which regions keep "
            "something; where its attention has fused projections, unfuse them.",
        )
        every = (seen.kept[slot] for slot in self.slots)
        return answer, tuple(part.unflatten(0, (n, len(part) // n)) for part in every)

    def sparse(self, run: Run, n: int, features: Features, mask: torch.Tensor | Changes) -> Answer:
        """The answer of ``run`` where ``mask`` (n, 1, h, w) says that its input differs from that
        of the run that kept the ``features``, and that run's answer elsewhere.

        Raises:
            UserError: a mask of another size, or features of another network, size or batch.
        """
        self._check(n, features)
        changes = mask if isinstance(mask, Changes) else self.changes(mask.to(features[0].device))
        require(
            len(changes.mask) == n,
            f"mask has {len(changes.mask)} rows, but the run has {n} samples; give a row for each.",
        )
        left = iter(features)
        stand_ins: list[StandIn] = []
        for part in self.parts:
            kept = [next(left).flatten(0, 1) for _ in part.slots]
            if kept[0].numel() > 0:
                stand_ins += part.stand_ins(kept, changes)
        modules, makes = [module for module, _ in stand_ins], [make for _, make in stand_ins]

        def entered(_: int, forward: Forward) -> Forward:
            def enter(x: torch.Tensor) -> torch.Tensor:
                size = tuple(changes.mask.shape[2:])
                require(
                    size == tuple(x.shape[2:]),
                    f"mask is of {size[0]} x {size[1]}, but the input of the {self.kind} is of "
                    f"{' x '.join(map(str, x.shape[2:]))}; give a mask of that size.",
                )
                return forward(x)

            return enter

        with (
            standing_in(modules, range(len(modules)), lambda number, old: makes[number](old)),
            standing_in([self.entry], (0,), entered),
        ):
            return run()

    def changes(self, mask: torch.Tensor) -> Changes:
        """``mask`` (n, 1, h, w) for several runs: what depends on it alone is made once."""
        return Changes(mask, self.tiling)

    def _check(self, n: int, features: Features) -> None:
        """Refuse features that this network did not give for ``n`` samples."""
        shapes = [feature.shape for feature in features]
        alike = len(shapes) == len(self.slots) and all(
            len(shape) >= 3 and (shape[-1] == 0 or slot.width in (None, shape[-1]))
            for shape, slot in zip(shapes, self.slots, strict=True)
        )
        require(
            alike,
            f"features are {len(shapes)} tensors of another network; give those that a full run of "
            f"this {self.kind} kept ({len(self.slots)} tensors).",
        )
        counts = {tuple(shape[:2]) for shape in shapes}
        require(
            len(counts) == 1 and shapes[0][0] == n,
            f"features are of {shapes[0][0]} samples, but the run has {n}; give those of the same "
            "samples.",
        )


class _Seen:
    """What a run keeps, while it runs.

    Attributes:
        modules: what is watched.
        kept: (rows, ...) for each slot, empty where regions do not need it.
    """

    def __init__(self, parts: list[Part], least: int) -> None:
        self.kept: dict[Slot, torch.Tensor] = {}
        self._least = least
        self._owners = [(part, slot) for part in parts for slot in part.slots]
        queries = {slot.query for _, slot in self._owners if slot.query is not None}
        self.modules = [slot.module for _, slot in self._owners] + list(queries)
        self._asked: torch.Tensor | None = None  # what the last query was made of

    def watched(self, number: int, forward: Forward) -> Forward:
        """What stands in for the forward of module ``number``."""

        def ask(x: torch.Tensor, *inputs: object, **options: object) -> Answer:
            self._asked = x
            return forward(x, *inputs, **options)

        def watch(x: torch.Tensor, *inputs: object, **options: object) -> Answer:
            answer = forward(x, *inputs, **options)
            self._keep_(*self._owners[number], x, answer)
            return answer

        return watch if number < len(self._owners) else ask

    def _keep_(self, part: Part, slot: Slot, x: torch.Tensor, answer: Answer) -> None:
        require(
            slot not in self.kept,
            "a run in regions calls its network once, but this one calls it again; give each call "
            "a run of its own.",
        )
        nothing = x.new_empty(len(x), 0)
        needed = slot.query is None or x is self._asked
        self.kept[slot] = slot.keep(x, answer) if needed else nothing
        if slot is part.slots[0]:
            _, height, width, _ = self.kept[slot].shape
            if min(height, width) < self._least:
                self.kept.update(dict.fromkeys(part.slots, nothing))
            self._require_all_tokens(part, height * width)

    def _require_all_tokens(self, part: Part, cells: int) -> None:
        keys = [self.kept.get(slot) for slot in part.slots if slot.query is not None]
        require(
            all(key is None or key.numel() == 0 or key.shape[1] == cells for key in keys),
            "the attention of this network merges its tokens, and then regions of them cannot be "
            "told; drop the merging, or the regions.",
        )


def macs(run: Run) -> int:
    """Multiply-accumulates that ``run`` computes, in convolutions, matrix products and attention:
    compare those of a run in regions with those of an ordinary one."""
    # The plain kernel of attention, which the counter sees as the two products that it is.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops() // 2
