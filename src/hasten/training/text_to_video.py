"""Train a model of clips: motion layers in a text-to-image model (AnimateDiff, Guo et al.
2307.04725), on captioned clips.

The motion layers change nothing at first, so the run begins with the pictures of the model that it
begins with; all weights train, the text encoder's too, which learns the words of motion.
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import pydantic
import torch
from accelerate import PartialState

from hasten.adapters.text_to_image import prompted_model
from hasten.adapters.text_to_video import (
    TextToVideo,
    image_pipeline,
    new_text_to_video,
    save_text_to_video,
)
from hasten.adapters.vae_codec import VaeCodec
from hasten.adapters.word_tokenizer import new_tokenizer, token_ids
from hasten.core.errors import require
from hasten.core.model import Model
from hasten.core.plan import Plan
from hasten.media.pictures import save_png
from hasten.sampling import build
from hasten.training.budget import Deadline
from hasten.training.data import pictures_of
from hasten.training.latents import Latents, encoded
from hasten.training.loop import Training
from hasten.training.noise_prediction import NoisePrediction
from hasten.training.previews import preview_sheet
from hasten.training.recipe import Data, Run, Times

SAVED = 64  # prompts that are saved beside the model


class TextToVideoRecipe(Run):
    """A text-to-video model: a text-to-image model with motion layers.

    Attributes:
        objective: always text-to-video.
        begin: the text-to-image pipeline that it begins with, by folder, hub id or builtin:NAME.
        data: captioned clips, such as moving-shapes(count=20000, frames=8).
        motion: the options of diffusers' MotionAdapter.
        words: drawn data whose words the tokenizer also keeps: those that the pipeline knew.
        caption_dropout: the share of clips whose caption is dropped, for classifier-free guidance.
        times: at which noise levels to train.
        preview: the prompts of the previews.
    """

    objective: Literal["text-to-video"]
    begin: str = "builtin:shapes"
    data: Data
    motion: dict[str, object]
    words: str = "shapes(count=20000)"
    caption_dropout: Annotated[float, pydantic.Field(ge=0, lt=1)] = 0.1
    times: Times = Times()
    preview: tuple[str, ...] = ()

    @classmethod
    def takes(cls, objective: object) -> bool:
        return objective == "text-to-video"


def train_text_to_video(
    recipe: TextToVideoRecipe, out: Path, *, deadline: Deadline | None = None, quiet: bool = False
) -> Path:
    """Train, or go on with the run in ``out``; returns ``out``/model, a folder that diffusers loads
    as a pipeline.

    Raises:
        UserError: a pipeline or data that cannot be used, options that a class does not take, or a
            run of another recipe in ``out``.
    """
    device = PartialState().device
    assert device is not None
    begin = image_pipeline(recipe.begin, device)
    codec = begin.codec
    assert isinstance(codec, VaeCodec)
    source = pictures_of(recipe.data)
    frames = getattr(source, "frames", None)
    require(
        isinstance(frames, int),
        f"recipe field 'data.source' is {recipe.data.source!r}, which has no clips; name drawn "
        "ones, such as moving-shapes(count=20000, frames=8).",
    )
    captions = source.captions(np.arange(len(source)))
    known = pictures_of(recipe.data.model_copy(update={"source": recipe.words}))
    before = known.captions(np.arange(len(known)))
    text = begin.family.text(begin.net)
    assert text is not None
    words = {w for line in (*before, *captions) for w in re.findall(r"[^\W\d_]+", line.lower())}
    tokenizer = new_tokenizer(sorted(words), text.length)
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(recipe.seed)
        net = new_text_to_video(begin, recipe.motion, tokenizer)
    latents = encoded(source, codec, out / "latents", [recipe.data], quiet=quiet)
    settings = {"schedule": begin.schedule, "prediction": begin.prediction}
    asked = (*recipe.preview, *captions)

    def as_model(module: TextToVideo, count: int = len(recipe.preview) or 8) -> Model:
        prompts = asked[:count]
        facts = {**settings, "name": recipe.name, "frames": frames, "plans": begin.plans}
        return prompted_model(module, tokenizer, codec, prompts, **facts)

    def preview(module: torch.nn.Module, seen: int) -> None:
        assert isinstance(module, TextToVideo)
        sheet = preview_sheet(build(as_model(module), Plan.of(begin.plan)))
        save_png(sheet, out / "previews" / f"{seen:010d}.png", {"clips": seen}, zoom=2)

    training = Training(
        recipe=recipe,
        objective=NoisePrediction(
            times=recipe.times,
            null_label=token_ids(tokenizer, [""])[0],
            label_dropout=recipe.caption_dropout,
            **settings,
        ),
        net=net,
        rows=Latents(latents=latents, labels=token_ids(tokenizer, captions)),
        run=out / "checkpoints",
        preview=preview if recipe.preview_every else None,
        deadline=deadline,
        quiet=quiet,
    )
    training.fit_().put_(net)
    if PartialState().is_main_process:
        model = dataclasses.replace(as_model(net.eval(), SAVED))
        card = _card(recipe, training.seen, frames)
        save_text_to_video(model, net, tokenizer, recipe.motion, out / "model", card)
    PartialState().wait_for_everyone()
    return out / "model"


def _card(recipe: TextToVideoRecipe, seen: int, frames: int | None) -> str:
    options = recipe.optimizer
    return f"""---
library_name: diffusers
license: apache-2.0
tags: [hasten, diffusion, text-to-video]
---
# {recipe.name}

A text-to-video model of {frames} frames, trained with `hasten train`: `{recipe.begin}` with motion
layers. All weights were trained; captions were dropped for {recipe.caption_dropout:.0%} of clips.

- data: `{recipe.data.source}`
- clips seen: {seen:,}, batch {options.batch}, rate {options.rate:g}, decay {options.decay}, \
EMA {recipe.ema}
- precision: {recipe.precision}; seed {recipe.seed}

```python
import hasten

model = hasten.load("this/folder")
clips = hasten.build(model).sample(1, condition=0)  # (1, {frames}, 3, h, w)
```
"""
