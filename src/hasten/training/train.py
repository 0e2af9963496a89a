"""train(recipe) -> a diffusers folder: the ``hasten train`` verb."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import torch
from accelerate import PartialState

from hasten.adapters.folder import save_folder
from hasten.adapters.recipe_network import recipe_network
from hasten.adapters.schedules import prediction
from hasten.core.codec import codecs
from hasten.core.errors import UserError, require
from hasten.core.learned_schedule import LearnedSchedule
from hasten.core.model import Model
from hasten.core.plan import Plan
from hasten.media.pictures import save_png
from hasten.sampling import build
from hasten.training.autoencoder import AutoencoderRecipe, train_autoencoder
from hasten.training.budget import Deadline
from hasten.training.classifier import ClassifierRecipe, train_classifier
from hasten.training.data import pictures_of
from hasten.training.learned_schedule import (
    LearnedSchedulePrediction,
    MonotoneShape,
    WithShape,
)
from hasten.training.loop import Training
from hasten.training.noise_prediction import NoisePrediction
from hasten.training.objective import Encoded, Objective, PictureSource
from hasten.training.previews import preview_sheet
from hasten.training.recipe import Document, Recipe
from hasten.training.text_encoder import TextEncoderRecipe, train_text_encoder
from hasten.training.text_to_image import TextToImageRecipe, train_text_to_image
from hasten.training.text_to_video import TextToVideoRecipe, train_text_to_video
from hasten.training.tiny_autoencoder import TinyAutoencoderRecipe, train_tiny_autoencoder

PREVIEW = Plan(solver="dpmpp(order=2)", grid="log-snr", steps=12)


def train(
    recipe: Document,
    out: str | Path,
    *,
    minutes: float | None = None,
    clock: Callable[[], float] = time.monotonic,
    quiet: bool = False,
) -> Path:
    """Train ``recipe`` (or go on with the run in ``out``); returns the folder of the result.

    ``out`` gets ``checkpoints/``, ``previews/`` and ``model/``, a diffusers folder with a card; a
    classifier is ``features/``, to lie in the folder of the model it measures.

    Args:
        minutes: a budget; the run's length follows from the rate of its steps.
        clock: of that budget, in seconds.

    Raises:
        UserError: data that cannot be read, or a run of another recipe in ``out``.
    """
    out = Path(out)
    deadline = None if minutes is None else Deadline.after(minutes, clock)
    require(
        recipe.command == Document.command,
        f"recipe {recipe.name!r} is for another command: {recipe.command}.",
    )
    run = next(run for kind, run in RUNS.items() if isinstance(recipe, kind))
    return run(recipe, out, deadline=deadline, quiet=quiet)


def train_diffusion(
    recipe: Recipe, out: Path, *, deadline: Deadline | None = None, quiet: bool = False
) -> Path:
    """Train a diffusion model, or go on with the run in ``out``; returns ``out``/model."""
    net, objective = prepared(recipe)
    pictures = pictures_of(recipe.data)
    _check_labels(recipe, pictures)

    def preview(module: torch.nn.Module, seen: int) -> None:
        sheet = preview_sheet(build(as_model(recipe, module), PREVIEW))
        save_png(sheet, out / "previews" / f"{seen:010d}.png", {"pictures": seen}, zoom=2)

    training = Training(
        recipe=recipe,
        objective=objective,
        net=net,
        rows=rows_of(recipe, pictures),
        run=out / "checkpoints",
        preview=preview if recipe.preview_every else None,
        deadline=deadline,
        quiet=quiet,
    )
    average = training.fit_()
    average.put_(net)
    if PartialState().is_main_process:
        save_folder(as_model(recipe, net.eval()), out / "model", card(recipe, training.seen))
    PartialState().wait_for_everyone()
    return out / "model"


RUNS: dict[type[Document], Callable[..., Path]] = {
    Recipe: train_diffusion,
    ClassifierRecipe: train_classifier,
    AutoencoderRecipe: train_autoencoder,
    TextEncoderRecipe: train_text_encoder,
    TextToImageRecipe: train_text_to_image,
    TextToVideoRecipe: train_text_to_video,
    TinyAutoencoderRecipe: train_tiny_autoencoder,
}


def rows_of(recipe: Recipe, pictures: PictureSource) -> Encoded:
    """The pictures as ``recipe`` trains on them."""
    return Encoded(pictures=pictures, codec=codecs.parse(recipe.codec), flip=recipe.data.flip)


def prepared(recipe: Recipe) -> tuple[torch.nn.Module, Objective]:
    """The module to train and what to minimise."""
    net: torch.nn.Module = initial_network(recipe)
    dropout = {"null_label": recipe.null_label, "label_dropout": recipe.label_dropout}
    kind, schedule = prediction(recipe.prediction), recipe.noise_schedule
    if isinstance(schedule, LearnedSchedule):
        shape = MonotoneShape(schedule.ends)
        return WithShape(net, shape), LearnedSchedulePrediction(
            prediction=kind, shape=shape, **dropout
        )
    return net, NoisePrediction(schedule=schedule, prediction=kind, times=recipe.times, **dropout)


def initial_network(recipe: Recipe) -> torch.nn.Module:
    """The recipe's network with the weights its seed gives.

    Raises:
        UserError: an option of the network that does not fit the pictures or the labels.
    """
    shape = codecs.parse(recipe.codec).encoded_shape(recipe.data.shape)
    null = recipe.null_label is not None
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(recipe.seed)
        return recipe_network(recipe.network, shape, recipe.labels, null=null)


def as_model(recipe: Recipe, net: torch.nn.Module) -> Model:
    """The Model that a recipe's network is."""
    codec, schedule = codecs.parse(recipe.codec), recipe.noise_schedule
    if isinstance(net, WithShape):
        net, schedule = net.net, net.shape.schedule()
    return Model(
        net=net,
        schedule=schedule,
        prediction=prediction(recipe.prediction),
        shape=codec.encoded_shape(recipe.data.shape),
        codec=codec,
        labels=recipe.labels,
        null_label=recipe.null_label,
        name=recipe.name,
    )


def _check_labels(recipe: Recipe, pictures: PictureSource) -> None:
    if pictures.labels is None or recipe.labels is None:
        return
    low, high = int(pictures.labels.min()), int(pictures.labels.max())
    if low < 0 or high >= recipe.labels:
        raise UserError(
            f"recipe field 'labels' is {recipe.labels}, but the data's labels run from {low} to "
            f"{high}; set labels to {high + 1} or more."
        )


def card(recipe: Recipe, seen: int) -> str:
    """The model card: what it is, how it was made from ``seen`` pictures, how to use it."""
    data, options = recipe.data, recipe.optimizer
    source = Path(data.source).name
    schedule = recipe.schedule if isinstance(recipe.schedule, str) else None
    schedule = schedule or recipe.noise_schedule.part_name
    labels = f"{recipe.labels} classes" if recipe.labels else "no labels"
    dropped = f", dropped for {recipe.label_dropout:.0%} of pictures" if recipe.null_label else ""
    return f"""---
library_name: diffusers
license: apache-2.0
tags: [hasten, diffusion, {"class-conditional" if recipe.labels else "unconditional"}]
---
# {recipe.name}

A diffusion model trained with `hasten train`. It predicts {recipe.prediction} on the noise schedule
`{schedule}`; pictures are
{data.shape[1]}x{data.shape[2]} with {data.shape[0]} channel(s), {labels}{dropped}; \
codec `{recipe.codec}`.

- data: `{source}` ({data.split})
- pictures seen: {seen:,}, batch {options.batch}, rate {options.rate:g}, \
decay {options.decay}, EMA {recipe.ema}
- precision: {recipe.precision}; seed {recipe.seed}

```python
import hasten

model = hasten.load("this/folder")
pictures = hasten.build(model).sample(16)
```

`hasten.json` holds what diffusers' own files do not say. Measured quality and speed: `hasten tune`
on the device where it is to run.
"""
