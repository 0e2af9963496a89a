"""Train a text-to-image model: a conditional U-Net and its text encoder on the latents of an
autoencoder (Rombach et al. 2112.10752), with captions dropped for classifier-free guidance.

Every picture is encoded once, before training, and every caption is tokenized once.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pydantic
import torch
from accelerate import PartialState

from hasten.adapters.schedules import prediction, schedule
from hasten.adapters.text_to_image import (
    autoencoder_codec,
    load_text_encoder,
    new_text_encoder,
    new_text_to_image,
    save_text_to_image,
)
from hasten.adapters.untyped import Tokenizer
from hasten.adapters.word_tokenizer import word_tokenizer
from hasten.core.noise_schedule import NoiseSchedule
from hasten.core.plan import Plan
from hasten.training.budget import Deadline
from hasten.training.captioned import SAVED, CaptionedRecipe, CaptionedRun
from hasten.training.data import pictures_of
from hasten.training.latents import encoded
from hasten.training.recipe import Whole

PLAN = Plan(solver="dpmpp(order=2)", grid="log-snr", steps=20, guidance=4.0)  # saved beside it too
PREVIEW = PLAN.model_copy(update={"steps": 12})


class TextToImageRecipe(CaptionedRecipe):
    """A text-to-image model: a U-Net and a text encoder on the latents of an autoencoder.

    Attributes:
        objective: always text-to-image.
        autoencoder: its folder, as `hasten train` wrote it.
        network: the options of diffusers' conditional U-Net.
        text: the options of transformers' CLIPTextConfig, for a text encoder that begins untrained.
        length: tokens of a prompt; longer prompts are cut.
        text_encoder: instead of `text` and `length`, the folder of a trained text encoder
            (objective: text-encoder) or of a pipeline; it is trained further with the network.
        schedule: the noise schedule: ddpm, vp-linear, vp-cosine or flow, with options.
        prediction: what the network predicts: epsilon, v, x0 or flow.
    """

    objective: Literal["text-to-image"]
    autoencoder: str
    network: dict[str, object]
    text: dict[str, object] | None = None
    length: Whole = 77
    text_encoder: str | None = None
    schedule: str | dict[str, object] = "ddpm"
    prediction: str = "epsilon"

    @classmethod
    def takes(cls, objective: object) -> bool:
        return objective == "text-to-image"

    @pydantic.model_validator(mode="after")
    def _parts_exist(self) -> TextToImageRecipe:
        schedule(self.schedule)
        prediction(self.prediction)
        if (self.text is None) == (self.text_encoder is None):
            raise ValueError("text and text_encoder: give one of them")
        if self.text_encoder is not None and "length" in self.model_fields_set:
            raise ValueError("length: that of text_encoder is taken; leave it out")
        return self

    @property
    def noise_schedule(self) -> NoiseSchedule:
        return schedule(self.schedule)


def train_text_to_image(
    recipe: TextToImageRecipe, out: Path, *, deadline: Deadline | None = None, quiet: bool = False
) -> Path:
    """Train, or go on with the run in ``out``; returns ``out``/model, a folder that diffusers loads
    as a pipeline.

    Raises:
        UserError: data or an autoencoder that cannot be read, options that a network does not take,
            or a run of another recipe in ``out``.
    """
    device = PartialState().device
    assert device is not None
    codec = autoencoder_codec(recipe.autoencoder, device)
    source = pictures_of(recipe.data)
    captions = source.captions(np.arange(len(source)))
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(recipe.seed)
        encoder, tokenizer = _text_encoder(recipe, captions)
        net = new_text_to_image(recipe.network, encoder)
    run = CaptionedRun(
        recipe=recipe,
        net=net,
        tokenizer=tokenizer,
        codec=codec,
        schedule=recipe.noise_schedule,
        prediction=prediction(recipe.prediction),
        captions=captions,
        latents=encoded(source, codec, out / "latents", [recipe.data], quiet=quiet),
        plan=PLAN,
    )
    seen = run.fit_(out, PREVIEW, deadline, quiet)
    if PartialState().is_main_process:
        card = _card(recipe, seen)
        save_text_to_image(run.model(net, SAVED), net, tokenizer, out / "model", card)
    PartialState().wait_for_everyone()
    return out / "model"


def _text_encoder(
    recipe: TextToImageRecipe, captions: Sequence[str]
) -> tuple[torch.nn.Module, Tokenizer]:
    if recipe.text_encoder is not None:
        return load_text_encoder(recipe.text_encoder)
    assert recipe.text is not None
    tokenizer = word_tokenizer(captions, recipe.length)
    return new_text_encoder(recipe.text, tokenizer), tokenizer


def _card(recipe: TextToImageRecipe, seen: int) -> str:
    options = recipe.optimizer
    return f"""---
library_name: diffusers
license: apache-2.0
tags: [hasten, diffusion, text-to-image]
---
# {recipe.name}

A text-to-image model trained with `hasten train`. It predicts {recipe.prediction}; captions were
dropped for {recipe.caption_dropout:.0%} of pictures.

- data: `{Path(recipe.data.source).name}`
- pictures seen: {seen:,}, batch {options.batch}, rate {options.rate:g}, decay {options.decay}, \
EMA {recipe.ema}
- precision: {recipe.precision}; seed {recipe.seed}

```python
import hasten

model = hasten.load("this/folder")
pictures = hasten.build(model).sample(8, condition="a large red circle")
```
"""
