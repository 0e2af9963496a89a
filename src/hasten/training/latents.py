"""Pictures that an autoencoder encoded once, before training, and what they are conditioned on."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save
from tqdm import tqdm

from hasten.adapters.vae_codec import VaeCodec
from hasten.core.errors import require
from hasten.core.files import write_bytes
from hasten.core.transfer import sent
from hasten.training.objective import PictureSource

SHARD = 4096  # pictures of one file


@dataclasses.dataclass(frozen=True, kw_only=True)
class Latents:
    """Rows: latents (n, c, h, w), of clips (n, c, frames, h, w), stored in float16; ``labels``
    (n, ...) are tokens of captions, or the labels that stand for these."""

    latents: torch.Tensor
    labels: torch.Tensor

    def __len__(self) -> int:
        return len(self.latents)

    def at(self, index: np.ndarray, key: tuple[int, ...], device: torch.device) -> torch.Tensor:
        return sent(self.latents[torch.from_numpy(index)], device).float()


def encoded(
    source: PictureSource, codec: VaeCodec, folder: Path, what: Sequence[object], *, quiet: bool
) -> torch.Tensor:
    """The latents of every picture of ``source`` (n, c, h, w) in float16, kept in ``folder``; those
    that are there already are read, so a run that was killed goes on.

    Args:
        what: what the latents depend on beside the codec: the data.
    """
    stamp = hashlib.sha256(repr(what).encode())
    for name, value in sorted(codec.vae.state_dict().items()):
        stamp.update(name.encode() + value.detach().cpu().numpy().tobytes())
    place = folder / stamp.hexdigest()[:12]
    shards = []
    bar = tqdm(total=len(source), unit="pic", unit_scale=True, desc="encoding", disable=quiet)
    for begin in range(0, len(source), SHARD):
        index = np.arange(begin, min(begin + SHARD, len(source)))
        file = place / f"{begin:09d}.safetensors"
        if not file.exists():
            parts = [
                codec.encode(source[part].float() / 255).half().cpu()
                for part in np.array_split(index, -(-len(index) // 128))
            ]
            write_bytes(file, save({"latents": torch.cat(parts).contiguous()}))
        shards.append(load_file(file)["latents"])
        bar.update(len(index))
    bar.close()
    out = torch.cat(shards)
    require(len(out) == len(source), f"{place} holds {len(out)} latents; delete it.")
    return out
