"""Train a model of clips: motion layers in a text-to-image model (AnimateDiff, Guo et al.
2307.04725), on captioned clips.

The motion layers change nothing at first, so the run begins with the pictures of the model that it
begins with; all weights train, the text encoder's too, which learns the words of motion.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import torch
from accelerate import PartialState

from hasten.adapters.text_to_video import (
    image_pipeline,
    new_text_to_video,
    save_text_to_video,
    tokenizer_for,
)
from hasten.adapters.vae_codec import VaeCodec
from hasten.core.errors import require
from hasten.core.plan import Plan
from hasten.training.budget import Deadline
from hasten.training.captioned import SAVED, CaptionedRecipe, CaptionedRun
from hasten.training.data import pictures_of
from hasten.training.latents import encoded


class TextToVideoRecipe(CaptionedRecipe):
    """A text-to-video model: a text-to-image model with motion layers, on clips with captions, such
    as moving-shapes(count=20000, frames=8).

    Attributes:
        objective: always text-to-video.
        begin: the text-to-image pipeline that it begins with, by folder, hub id or builtin:NAME.
        motion: the options of diffusers' MotionAdapter.
    """

    objective: Literal["text-to-video"]
    begin: str = "builtin:shapes"
    motion: dict[str, object]

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
    codec, source = begin.codec, pictures_of(recipe.data)
    assert isinstance(codec, VaeCodec)
    frames = getattr(source, "frames", None)
    require(
        isinstance(frames, int),
        f"recipe field 'data.source' is {recipe.data.source!r}, which has no clips; name drawn "
        "ones, such as moving-shapes(count=20000, frames=8).",
    )
    captions = source.captions(np.arange(len(source)))
    tokenizer = tokenizer_for(begin, captions)
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(recipe.seed)
        net = new_text_to_video(begin, recipe.motion, tokenizer)
    run = CaptionedRun(
        recipe=recipe,
        net=net,
        tokenizer=tokenizer,
        codec=codec,
        schedule=begin.schedule,
        prediction=begin.prediction,
        captions=captions,
        latents=encoded(source, codec, out / "latents", [recipe.data], quiet=quiet),
        plan=Plan.of(begin.plan),
        frames=frames,
    )
    seen = run.fit_(out, run.plan, deadline, quiet)
    if PartialState().is_main_process:
        model, card = run.model(net, SAVED), _card(recipe, seen, frames)
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
