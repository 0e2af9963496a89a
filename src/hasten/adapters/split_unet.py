"""A diffusers U-Net as two graphs that share its weights: all of it, and a part of it.

A U-Net is walked here layer by layer: an encoder layer is one that writes a skip connection, a
decoder layer one that reads it, so layer i of the encoder and layer i of the decoder, both counted
from the outermost, belong to the same connection. The arithmetic is that of the network's own
forward, in the same order.
"""

from __future__ import annotations

import torch
from torch import nn

from hasten.adapters.untyped import Net
from hasten.core.errors import UserError, require

DOWN = ("DownBlock2D", "AttnDownBlock2D", "CrossAttnDownBlock2D")
UP = ("UpBlock2D", "AttnUpBlock2D", "CrossAttnUpBlock2D")
MIDDLE = ("UNetMidBlock2D", "UNetMidBlock2DCrossAttn", "NoneType")

Layer = tuple[nn.Module, nn.Module | None]
"""A residual block and its attention, or a module that changes the size alone."""


class SplitUNet(nn.Module):
    """``UNet2DModel`` (cond: labels) or ``UNet2DConditionModel`` (cond: encoder hidden states) as a
    network that keeps features: ``(x, t, cond) -> (answer, *kept)``, ``(x, t, cond, *kept) ->
    answer``.
    """

    def __init__(self, unet: Net) -> None:
        super().__init__()
        _check(unet)
        self.unet = unet
        self._crossed = hasattr(unet, "get_time_embed")  # UNet2DConditionModel

    @property
    def module(self) -> nn.Module:
        """The network that is split."""
        return self.unet

    def embedding(
        self, x: torch.Tensor, t: torch.Tensor, condition: torch.Tensor | None
    ) -> torch.Tensor:
        """The embedding of time, and of the label where the network has labels."""
        unet = self.unet
        if self._crossed:
            embedding = unet.time_embedding(unet.get_time_embed(sample=x, timestep=t), None)
            return embedding if unet.time_embed_act is None else unet.time_embed_act(embedding)
        times = t * torch.ones(x.shape[0], dtype=t.dtype, device=t.device)
        embedding = unet.time_embedding(unet.time_proj(times).to(dtype=unet.dtype))
        if unet.class_embedding is None:
            require(condition is None, "this network has no labels, but a condition was given.")
            return embedding
        require(condition is not None, "this network was trained with labels, but none were given.")
        label = (
            unet.time_proj(condition) if unet.config.class_embed_type == "timestep" else condition
        )
        return embedding + unet.class_embedding(label).to(dtype=unet.dtype)

    def entered(self, x: torch.Tensor) -> torch.Tensor:
        """What the first convolution makes of x."""
        return self.unet.conv_in(2 * x - 1.0 if self.unet.config.center_input_sample else x)

    def encoded(
        self,
        x: torch.Tensor,
        embedding: torch.Tensor,
        condition: torch.Tensor | None,
        layers: list[Layer],
    ) -> list[torch.Tensor]:
        """The first ``1 + len(layers)`` skip connections, the outermost first."""
        skips = [self.entered(x)]
        for layer in layers:
            skips.append(self._through(skips[-1], embedding, condition, layer))
        return skips

    def middle(
        self, hidden: torch.Tensor, embedding: torch.Tensor, condition: torch.Tensor | None
    ) -> torch.Tensor:
        """The block between encoder and decoder."""
        middle = self.unet.mid_block
        if middle is None:
            return hidden
        if getattr(middle, "has_cross_attention", False):
            return middle(hidden, embedding, encoder_hidden_states=condition)
        return middle(hidden, embedding)

    def decoded(
        self,
        hidden: torch.Tensor,
        skips: list[torch.Tensor],
        embedding: torch.Tensor,
        condition: torch.Tensor | None,
        stop: int = 0,
    ) -> torch.Tensor:
        """``hidden`` through the decoder, from the layer of the last of ``skips`` to that of
        connection ``stop``, with what lies between it and the next."""
        layers = decoder_layers(self.unet)
        for index in range(len(skips) - 1, stop - 1, -1):
            layer, after = layers[index]
            hidden = torch.cat([hidden, skips[index]], dim=1)
            hidden = self._through(hidden, embedding, condition, layer)
            for grow in after:
                more = embedding if _is_residual(grow) else self._size(skips, index)
                hidden = grow(hidden, more)
        return hidden

    def left(self, hidden: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """What the last convolution makes of ``hidden``."""
        unet = self.unet
        if unet.conv_norm_out:
            hidden = unet.conv_act(unet.conv_norm_out(hidden))
        hidden = unet.conv_out(hidden)
        if not self._crossed and unet.config.time_embedding_type == "fourier":
            hidden = hidden / t.reshape(-1, *[1] * (hidden.ndim - 1))
        return hidden

    def _through(
        self,
        hidden: torch.Tensor,
        embedding: torch.Tensor,
        condition: torch.Tensor | None,
        layer: Layer,
    ) -> torch.Tensor:
        block, attention = layer
        if not _is_residual(block):
            return block(hidden)
        hidden = block(hidden, embedding)
        if attention is None:
            return hidden
        if self._crossed and hasattr(attention, "transformer_blocks"):
            return attention(hidden, encoder_hidden_states=condition, return_dict=False)[0]
        return attention(hidden)

    def _size(self, skips: list[torch.Tensor], index: int) -> torch.Size | None:
        """The height and width to grow to, where halving has rounded; None elsewhere."""
        if not self._crossed:
            return None
        factor = 2**self.unet.num_upsamplers
        height, width = skips[0].shape[-2:]
        even = height % factor == 0 and width % factor == 0
        return None if even or index == 0 else skips[index - 1].shape[2:]


class DeepSplit(SplitUNet):
    """Keeps what enters the decoder layer that reads skip connection ``branch``."""

    def __init__(self, unet: Net, branch: int) -> None:
        super().__init__(unet)
        count = len(decoder_layers(unet))
        require(
            branch < count,
            f"lever option branch is {branch}, but this {type(unet).__name__} has {count} "
            f"branches; give 0 (the cheapest) to {count - 1}.",
        )
        self.branch = branch

    def forward(
        self,
        x: torch.Tensor,
        t: torch.Tensor,
        condition: torch.Tensor | None = None,
        *features: torch.Tensor,
    ) -> torch.Tensor | tuple[torch.Tensor, ...]:
        embedding, layers = self.embedding(x, t, condition), encoder_layers(self.unet)
        if features:
            deep = features[0]
            skips = self.encoded(x, embedding, condition, layers[: self.branch])
        else:
            skips = self.encoded(x, embedding, condition, layers)
            deep = self.middle(skips[-1], embedding, condition)
            deep = self.decoded(deep, skips, embedding, condition, stop=self.branch + 1)
        hidden = self.decoded(deep, skips[: self.branch + 1], embedding, condition)
        answer = self.left(hidden, t)
        return answer if features else (answer, deep)


class EncoderSplit(SplitUNet):
    """Keeps every skip connection and what enters the decoder."""

    def forward(
        self,
        x: torch.Tensor,
        t: torch.Tensor,
        condition: torch.Tensor | None = None,
        *features: torch.Tensor,
    ) -> torch.Tensor | tuple[torch.Tensor, ...]:
        embedding = self.embedding(x, t, condition)
        if features:
            deep, *skips = features
        else:
            skips = self.encoded(x, embedding, condition, encoder_layers(self.unet))
            deep = self.middle(skips[-1], embedding, condition)
        answer = self.left(self.decoded(deep, skips, embedding, condition), t)
        return answer if features else (answer, deep, *skips)


def encoder_layers(unet: Net) -> list[Layer]:
    """What writes the skip connections after the first, the outermost first."""
    out: list[Layer] = []
    for block in unet.down_blocks:
        attentions = getattr(block, "attentions", [None] * len(block.resnets))
        out += zip(block.resnets, attentions, strict=True)
        out += [(shrink, None) for shrink in block.downsamplers or []]
    return out


def decoder_layers(unet: Net) -> list[tuple[Layer, list[nn.Module]]]:
    """What reads each skip connection, the outermost first, and what grows its output."""
    out: list[tuple[Layer, list[nn.Module]]] = []
    for block in unet.up_blocks:
        attentions = getattr(block, "attentions", [None] * len(block.resnets))
        layers = list(zip(block.resnets, attentions, strict=True))
        out += [(layer, []) for layer in layers[:-1]]
        out.append((layers[-1], list(block.upsamplers or [])))
    return out[::-1]


def _is_residual(module: nn.Module) -> bool:
    """Whether it is a residual block, which reads the embedding; else it changes the size alone."""
    return hasattr(module, "time_emb_proj")


def _check(unet: Net) -> None:
    """Refuse what the code above would not compute as the network does."""
    names = [type(block).__name__ for block in (*unet.down_blocks, unet.mid_block, *unet.up_blocks)]
    other = sorted(set(names) - {*DOWN, *MIDDLE, *UP})
    if other:
        raise UserError(
            f"this {type(unet).__name__} cannot be split for a feature cache: it has blocks of "
            f"type {', '.join(other)}; known are {', '.join((*DOWN, *UP))}. Drop the lever."
        )
    config = unet.config
    also = ("addition_embed_type", "encoder_hid_dim_type", "encoder_hid_dim", "class_embed_type")
    if hasattr(unet, "get_time_embed"):
        used = [name for name in also if config.get(name)]
        if config.get("num_class_embeds") and "class_embed_type" not in used:
            used.append("num_class_embeds")
        require(
            not used,
            f"this {type(unet).__name__} cannot be split for a feature cache: it takes more than "
            f"encoder hidden states ({', '.join(used)}). Drop the lever.",
        )
    free = any(getattr(block, "s1", None) for block in unet.up_blocks)
    require(
        not free,
        "a U-Net with FreeU enabled cannot be split for a feature cache; call disable_freeu().",
    )
