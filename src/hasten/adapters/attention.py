"""The self-attentions of diffusers' transformer blocks, and tokens that are folded around them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from hasten.adapters.untyped import Net
from hasten.core.family import Folding


class FoldedAttention:
    """An attention processor of diffusers around another one, which sees the folded tokens."""

    def __init__(self, inner: Callable[..., torch.Tensor], folding: Folding) -> None:
        self.inner, self.folding = inner, folding

    def __call__(
        self,
        attn: nn.Module,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        temb: torch.Tensor | None = None,
    ) -> torch.Tensor:
        fold, unfold = self.folding(hidden_states)
        answer = self.inner(attn, fold(hidden_states), encoder_hidden_states, attention_mask, temb)
        return unfold(answer)


def fold_tokens_(attention: Net, folding: Folding) -> None:
    """Let ``attention`` see its tokens folded."""
    attention.set_processor(FoldedAttention(attention.processor, folding))


def tokens_seen(net: nn.Module, run: Callable[[], object]) -> dict[nn.Module, int]:
    """How many tokens each self-attention of a transformer block of ``net`` sees during ``run``;
    those of plain U-Nets, which add their own input, are left out."""
    seen: dict[nn.Module, int] = {}

    def keep(part: Net, inputs: tuple[torch.Tensor, ...], options: dict[str, torch.Tensor]) -> None:
        x = inputs[0] if inputs else options["hidden_states"]
        rest = [*inputs[1:], *(value for key, value in options.items() if key != "hidden_states")]
        alone = not part.residual_connection and all(value is None for value in rest)
        if x.ndim == 3 and alone:
            seen[part] = x.shape[1]

    hooks = [
        part.register_forward_pre_hook(keep, with_kwargs=True)
        for part in net.modules()
        if hasattr(part, "set_processor") and hasattr(part, "residual_connection")
    ]
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
    return seen
