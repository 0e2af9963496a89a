"""Train the autoencoder of a latent diffusion model (Rombach et al. 2112.10752, section 3.1).

Without their patch discriminator and perceptual features: what is drawn with flat colours and sharp
edges is kept by the squared error alone. It weighs an edge that is far off more than the grain of a
background, which no latent holds; the absolute error spends itself on the grain.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import pydantic
import torch
from accelerate import PartialState

from hasten.adapters.text_to_image import Autoencoding, new_autoencoder, save_autoencoder
from hasten.media.pictures import grid, save_png
from hasten.training.budget import Deadline
from hasten.training.data import pictures_of
from hasten.training.loop import Training
from hasten.training.objective import Batch, PictureRows
from hasten.training.recipe import Data, Run

SCALED_BY = 2048  # pictures, of whose latents the variance is taken
SHOWN = 16  # pictures of a preview


class AutoencoderRecipe(Run):
    """An autoencoder whose latents a diffusion model is trained on.

    Attributes:
        objective: always autoencoder.
        data: the pictures.
        network: the options of diffusers' autoencoder by that name, with KL at its end.
        divergence: the weight of the Kullback-Leibler divergence of the latents from a standard
            normal, beside the squared error of a pixel in [-1, 1].
    """

    objective: Literal["autoencoder"]
    data: Data
    network: dict[str, object]
    divergence: Annotated[float, pydantic.Field(ge=0)] = 3e-6

    @classmethod
    def takes(cls, objective: object) -> bool:
        return objective == "autoencoder"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reconstruction:
    """The mean squared error of pictures in [-1, 1], and the divergence of their latents."""

    divergence: float

    def loss(self, net: torch.nn.Module, batch: Batch) -> torch.Tensor:
        pictures = batch.rows * 2 - 1
        module = getattr(net, "module", net)
        assert isinstance(module, Autoencoding)
        noise = batch.randn_like(pictures.new_empty(module.latent_shape(pictures)))
        again, divergence = net(pictures, noise)
        return (again - pictures).square().mean() + self.divergence * divergence


def train_autoencoder(
    recipe: AutoencoderRecipe, out: Path, *, deadline: Deadline | None = None, quiet: bool = False
) -> Path:
    """Train, or go on with the run in ``out``; returns ``out``/model, a folder that
    diffusers loads.

    Raises:
        UserError: data that cannot be read, options that the network does not take, or a run of
            another recipe in ``out``.
    """
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(recipe.seed)
        net = Autoencoding(new_autoencoder(recipe.network))
    rows = PictureRows(pictures=pictures_of(recipe.data), flip=recipe.data.flip)
    shown = np.arange(min(SHOWN, len(rows)))

    def preview(module: torch.nn.Module, seen: int) -> dict[str, float]:
        pictures = rows.at(shown, (0,), next(module.parameters()).device)
        with torch.inference_mode():
            again = (module(pictures * 2 - 1)[0] / 2 + 0.5).clamp(0, 1)
        sheet = grid(torch.cat([pictures, again]).cpu(), columns=len(shown))
        save_png(sheet, out / "previews" / f"{seen:010d}.png", {"pictures": seen}, zoom=2)
        return {"rmse": float((again - pictures).square().mean().sqrt())}

    training = Training(
        recipe=recipe,
        objective=Reconstruction(divergence=recipe.divergence),
        net=net,
        rows=rows,
        run=out / "checkpoints",
        preview=preview if recipe.preview_every else None,
        deadline=deadline,
        quiet=quiet,
    )
    training.fit_().put_(net)
    if PartialState().is_main_process:
        scale = latent_scale(net.eval(), rows, min(SCALED_BY, len(rows)))
        save_autoencoder(net.vae, out / "model", scale, _card(recipe, training.seen))
    PartialState().wait_for_everyone()
    return out / "model"


@torch.no_grad()
def latent_scale(net: Autoencoding, rows: PictureRows, n: int) -> float:
    """What brings the latents of the first ``n`` pictures to unit variance."""
    device, parts = next(net.parameters()).device, np.array_split(np.arange(n), -(-n // 64))
    pictures = (rows.at(part, (0,), device) * 2 - 1 for part in parts)
    latents = torch.cat([net.latents(some).double() for some in pictures])
    return 1.0 / float(latents.std())


def _card(recipe: AutoencoderRecipe, seen: int) -> str:
    _, height, width = recipe.data.shape
    return f"""---
library_name: diffusers
license: apache-2.0
tags: [hasten, autoencoder]
---
# {recipe.name}

An autoencoder for pictures of {height}x{width}, trained with `hasten train` by the mean squared
error.

- data: `{Path(recipe.data.source).name}`
- pictures seen: {seen:,}, batch {recipe.optimizer.batch}, rate {recipe.optimizer.rate:g}, EMA \
{recipe.ema}; weight of the divergence {recipe.divergence:g}
"""
