"""A diffusers ``DiTTransformer2DModel`` that keeps what a run of its blocks added to the tokens."""

from __future__ import annotations

import torch
from torch import nn

from hasten.adapters.block_span import last_block
from hasten.adapters.untyped import Net
from hasten.core.errors import require


class SplitDiT(nn.Module):
    """The network in three pieces: the patches' tokens, its blocks, and what it answers."""

    def __init__(self, dit: Net) -> None:
        super().__init__()
        self.dit = dit

    @property
    def module(self) -> nn.Module:
        """The network that is split."""
        return self.dit

    def through(
        self,
        tokens: torch.Tensor,
        t: torch.Tensor,
        condition: torch.Tensor | None,
        first: int,
        last: int,
    ) -> torch.Tensor:
        """``tokens`` through the blocks ``first`` to ``last``, both included."""
        for block in self.dit.transformer_blocks[first : last + 1]:
            tokens = block(tokens, timestep=t, class_labels=condition)
        return tokens

    def left(
        self, tokens: torch.Tensor, t: torch.Tensor, condition: torch.Tensor | None
    ) -> torch.Tensor:
        """The answer (n, c, h, w) that ``tokens`` hold."""
        dit, size = self.dit, self.dit.patch_size
        embedding = dit.transformer_blocks[0].norm1.emb(t, condition, hidden_dtype=tokens.dtype)
        shift, scale = dit.proj_out_1(nn.functional.silu(embedding)).chunk(2, dim=1)
        tokens = dit.norm_out(tokens) * (1 + scale[:, None]) + shift[:, None]
        tokens = dit.proj_out_2(tokens)
        side = int(tokens.shape[1] ** 0.5)
        tokens = tokens.reshape(-1, side, side, size, size, dit.out_channels)
        tokens = torch.einsum("nhwpqc->nchpwq", tokens)
        return tokens.reshape(-1, dit.out_channels, side * size, side * size)


class BlocksSplit(SplitDiT):
    """Keeps what the blocks ``first`` to ``last`` added."""

    def __init__(self, dit: Net, first: int, last: int) -> None:
        super().__init__(dit)
        count = len(dit.transformer_blocks)
        self.first, self.last = first, last_block(first, last, count, "network")

    def forward(
        self,
        x: torch.Tensor,
        t: torch.Tensor,
        condition: torch.Tensor | None = None,
        *features: torch.Tensor,
    ) -> torch.Tensor | tuple[torch.Tensor, ...]:
        end = len(self.dit.transformer_blocks) - 1
        before = self.through(self.dit.pos_embed(x), t, condition, 0, self.first - 1)
        inner = () if features else (self.through(before, t, condition, self.first, self.last),)
        after = inner[0] if inner else before + features[0]
        answer = self.left(self.through(after, t, condition, self.last + 1, end), t, condition)
        return answer if features else (answer, after - before)


class AttentionSplit(SplitDiT):
    """Keeps what the attention of every block attended to; the rest of each block is current."""

    def __init__(self, dit: Net) -> None:
        super().__init__(dit)
        kinds = {block.norm_type for block in dit.transformer_blocks}
        require(
            kinds == {"ada_norm_zero"},
            f"lever 'attention' knows blocks with norm 'ada_norm_zero', and this network has "
            f"{', '.join(sorted(kinds))}; use 'blocks'.",
        )

    def forward(
        self,
        x: torch.Tensor,
        t: torch.Tensor,
        condition: torch.Tensor | None = None,
        *features: torch.Tensor,
    ) -> torch.Tensor | tuple[torch.Tensor, ...]:
        tokens, seen = self.dit.pos_embed(x), []
        for number, block in enumerate(self.dit.transformer_blocks):
            cached = features[number] if features else None
            tokens, attended = self._block(block, tokens, t, condition, cached)
            seen.append(attended)
        answer = self.left(tokens, t, condition)
        return answer if features else (answer, *seen)

    def _block(
        self,
        block: Net,
        tokens: torch.Tensor,
        t: torch.Tensor,
        condition: torch.Tensor | None,
        cached: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The block's own forward, in its order, with its attention cached or computed."""
        dtype = tokens.dtype
        normed, gate, shift, scale, gate_mlp = block.norm1(tokens, t, condition, hidden_dtype=dtype)
        attended: torch.Tensor = block.attn1(normed) if cached is None else cached
        tokens = gate[:, None] * attended + tokens
        normed = block.norm3(tokens) * (1 + scale[:, None]) + shift[:, None]
        return gate_mlp[:, None] * block.ff(normed) + tokens, attended


class FirstBlockSplit(SplitDiT):
    """Keeps for each picture what the first block, and what all others, added at its last full
    evaluation, and runs the others for those pictures whose first block has moved on."""

    def __init__(self, dit: Net, threshold: float) -> None:
        super().__init__(dit)
        count = len(dit.transformer_blocks)
        require(count > 1, "lever 'first-block' needs a network of two blocks or more.")
        self.threshold, self.end = threshold, count - 1

    def forward(
        self,
        x: torch.Tensor,
        t: torch.Tensor,
        condition: torch.Tensor | None = None,
        *features: torch.Tensor,
    ) -> torch.Tensor | tuple[torch.Tensor, ...]:
        start = self.dit.pos_embed(x)
        before = self.through(start, t, condition, 0, 0)
        added = before - start
        if not features:
            rest = self.through(before, t, condition, 1, self.end) - before
            return self.left(before + rest, t, condition), added, rest
        first, rest = (residual.clone() for residual in features)
        moved = (added - first).abs().mean((1, 2)) / first.abs().mean((1, 2)).clamp_min(1e-12)
        rows = (moved >= self.threshold).nonzero().flatten()
        if len(rows):
            labels = None if condition is None else condition[rows]
            some = before[rows]
            rest[rows] = self.through(some, t[rows], labels, 1, self.end) - some
            first[rows] = added[rows]
        return self.left(before + rest, t, condition), first, rest
