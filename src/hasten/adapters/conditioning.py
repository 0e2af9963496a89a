"""How the networks of diffusers hear of time and label, so that it can be computed ahead.

In a U-Net the embedding of time and label becomes one shift (or scale and shift) a channel in
every residual block. In a DiT every block has an embedding of its own, from which it makes the
shifts, scales and gates of its normalisation (Peebles & Xie 2212.09748, section 3.2).
"""

from __future__ import annotations

import torch
from torch import nn

from hasten.adapters.untyped import Net
from hasten.core.errors import UserError
from hasten.core.family import Conditioning

BY_OTHER_WAYS = ("AdaGroupNorm", "SpatialNorm")
"""Normalisations of U-Nets that read the embedding themselves."""
EXTRAS = ("addition_embed_type", "class_embed_type")
"""Options of U-Nets that add something other than labels to the embedding."""


class UNetConditioning(Conditioning):
    """Of ``UNet2DModel`` and ``UNet2DConditionModel``.

    Args:
        takes_label: the condition is what the cross-attention reads.

    Raises:
        UserError: the network uses its embedding otherwise too, with the option that says so.
    """

    def __init__(self, unet: Net, takes_label: bool) -> None:
        self._unet, self.takes_label = unet, takes_label
        _require_plain(unet, takes_label)
        self._blocks = [
            part for part in unet.modules() if getattr(part, "time_emb_proj", None) is not None
        ]
        self.layers = [(block, "time_emb_proj") for block in self._blocks]
        self._wave, self._time = unet.time_proj, unet.time_embedding
        self._label = unet.class_embedding
        self._before = getattr(unet, "time_embed_act", None)
        self._parts = [
            (None if block.skip_time_act else block.nonlinearity, block.time_emb_proj)
            for block in self._blocks
        ]
        self.labels = 1 if self._label is None else self._label.num_embeddings

    def rows(self, time: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        embedding = self._time(self._wave(time))
        if self._label is not None:
            embedding = embedding + self._label(labels)
        embedding = embedding if self._before is None else self._before(embedding)
        parts = [layer(embedding if act is None else act(embedding)) for act, layer in self._parts]
        return torch.cat(parts, dim=1).expand(len(labels), -1)

    def remove_(self) -> None:
        self._unet.time_proj = self._unet.time_embedding = Unread()
        self._unet.class_embedding = None
        if self._before is not None:
            self._unet.time_embed_act = None
        for block in self._blocks:
            block.skip_time_act = True


class DiTConditioning(Conditioning):
    """Of ``DiTTransformer2DModel``."""

    def __init__(self, dit: Net) -> None:
        self._norms = [block.norm1 for block in dit.transformer_blocks]
        self.layers = [(norm, "linear") for norm in self._norms] + [(dit, "proj_out_1")]
        self._parts = [(norm.emb, norm.linear) for norm in self._norms]
        self._parts.append((self._norms[0].emb, dit.proj_out_1))
        self.labels = self._norms[0].emb.class_embedder.embedding_table.num_embeddings

    def rows(self, time: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        silu, kind = nn.functional.silu, self._parts[-1][1].weight.dtype
        return torch.cat(
            [layer(silu(embed(time, labels, hidden_dtype=kind))) for embed, layer in self._parts],
            dim=1,
        )

    def remove_(self) -> None:
        for norm in self._norms:
            norm.emb = Unread()


class Unread(nn.Module):
    """Stands in for an embedding that nobody reads."""

    def forward(self, time: torch.Tensor, *others: object, **options: object) -> torch.Tensor:
        return time


def _require_plain(unet: Net, takes_label: bool) -> None:
    config = unet.config
    extra = [f"{name}={config[name]!r}" for name in EXTRAS if config.get(name) is not None]
    if config.get("time_embedding_type", "positional") != "positional":
        extra.append(f"time_embedding_type={config['time_embedding_type']!r}")
    if takes_label and config.get("num_class_embeds") is not None:
        extra.append(f"num_class_embeds={config['num_class_embeds']}")
    kinds = {type(part).__name__ for part in unet.modules()}
    extra += [kind for kind in BY_OTHER_WAYS if kind in kinds]
    if extra:
        raise UserError(
            f"what the time says to a {type(unet).__name__} with {', '.join(extra)} cannot be "
            "computed ahead."
        )
