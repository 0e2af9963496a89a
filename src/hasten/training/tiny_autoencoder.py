"""Train a small autoencoder on the latents of a whole one, as TAESD is
(https://github.com/madebyollin/taesd), without its discriminator: its decoder learns to draw what
the whole decoder draws, its encoder to say what the whole encoder says."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from accelerate import PartialState

from hasten.adapters.text_to_image import (
    TinyCoding,
    autoencoder_codec,
    new_tiny_autoencoder,
    save_autoencoder,
)
from hasten.adapters.vae_codec import VaeCodec
from hasten.media.pictures import grid, save_png
from hasten.training.autoencoder import SHOWN
from hasten.training.budget import Deadline
from hasten.training.data import pictures_of
from hasten.training.loop import Training
from hasten.training.objective import Batch, PictureRows
from hasten.training.recipe import Data, Run


class TinyAutoencoderRecipe(Run):
    """A small autoencoder that stands in for a whole one.

    Attributes:
        objective: always tiny-autoencoder.
        data: the pictures.
        autoencoder: the folder of the whole autoencoder.
        network: the options of diffusers' tiny autoencoder.
    """

    objective: Literal["tiny-autoencoder"]
    data: Data
    autoencoder: str
    network: dict[str, object]

    @classmethod
    def takes(cls, objective: object) -> bool:
        return objective == "tiny-autoencoder"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Imitation:
    """The mean squared errors of pictures in [-1, 1] and of latents, from those of ``codec``."""

    codec: VaeCodec

    def loss(self, net: torch.nn.Module, batch: Batch) -> torch.Tensor:
        with torch.no_grad():
            latents = self.codec.encode(batch.rows)
            pictures = self.codec.decode(latents) * 2 - 1
        encoded, decoded = net(batch.rows * 2 - 1, latents)
        return (decoded - pictures).square().mean() + (encoded - latents).square().mean()


def train_tiny_autoencoder(
    recipe: TinyAutoencoderRecipe,
    out: Path,
    *,
    deadline: Deadline | None = None,
    quiet: bool = False,
) -> Path:
    """Train, or go on with the run in ``out``; returns ``out``/model, a folder that
    diffusers loads.

    Raises:
        UserError: data or an autoencoder that cannot be read, options that the network does not
            take, or a run of another recipe in ``out``.
    """
    device = PartialState().device
    assert device is not None
    codec = autoencoder_codec(recipe.autoencoder, device)
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(recipe.seed)
        net = TinyCoding(new_tiny_autoencoder(recipe.network))
    rows = PictureRows(pictures=pictures_of(recipe.data), flip=recipe.data.flip)
    shown = np.arange(min(SHOWN, len(rows)))

    def preview(module: torch.nn.Module, seen: int) -> dict[str, float]:
        pictures = rows.at(shown, (0,), next(module.parameters()).device)
        with torch.inference_mode():
            latents = codec.encode(pictures)
            whole, small = codec.decode(latents), module(pictures * 2 - 1, latents)[1]
        small = (small / 2 + 0.5).clamp(0, 1)
        sheet = grid(torch.cat([whole, small]).cpu(), columns=len(shown))
        save_png(sheet, out / "previews" / f"{seen:010d}.png", {"pictures": seen}, zoom=2)
        return {"rmse": float((small - whole).square().mean().sqrt())}

    training = Training(
        recipe=recipe,
        objective=Imitation(codec=codec),
        net=net,
        rows=rows,
        run=out / "checkpoints",
        preview=preview if recipe.preview_every else None,
        deadline=deadline,
        quiet=quiet,
    )
    training.fit_().put_(net)
    if PartialState().is_main_process:
        save_autoencoder(net.eval().tiny, out / "model", 1.0, _card(recipe, training.seen))
    PartialState().wait_for_everyone()
    return out / "model"


def _card(recipe: TinyAutoencoderRecipe, seen: int) -> str:
    _, height, width = recipe.data.shape
    return f"""---
library_name: diffusers
license: apache-2.0
tags: [hasten, autoencoder]
---
# {recipe.name}

A small autoencoder for the latents of `{Path(recipe.autoencoder).name}`, for pictures of
{height}x{width}, trained with `hasten train` by the mean squared error from what that decodes and
encodes. In a plan: `levers=[tiny-decoder(source='FOLDER')]`.

- data: `{Path(recipe.data.source).name}`
- pictures seen: {seen:,}, batch {recipe.optimizer.batch}, rate {recipe.optimizer.rate:g}, EMA \
{recipe.ema}
"""
