"""A training recipe: a YAML file, checked before anything starts.

What is trained elsewhere (students, classifiers, starts) has a recipe class of its own, beside its
objective.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, ClassVar, Literal, TypeVar

import pydantic
import yaml

from hasten.adapters.schedules import prediction, schedule
from hasten.core.codec import codecs
from hasten.core.errors import UserError
from hasten.core.files import TEXT, JsonObject
from hasten.core.noise_schedule import NoiseSchedule
from hasten.core.settings import Settings
from hasten.training.shipped import recipe_file

Whole = Annotated[int, pydantic.Field(ge=1)]
Positive = Annotated[float, pydantic.Field(gt=0)]


class Data(Settings):
    """Where the pictures are.

    Attributes:
        source: a parquet file, a folder of pictures, a hub name, or drawn data such as
            shapes(count=100000); `--data` replaces it.
        split: which split is read, where the source has several.
        image: the column that holds the pictures.
        label: the column that holds the labels, for a class-conditional model.
        caption: the column that holds the captions, for a text-to-image model.
        shape: channels (1 or 3), height and width; other pictures are resized to cover it, then cut
            to its centre.
        flip: also train on mirror images.
    """

    source: str
    split: str = "train"
    image: str = "image"
    label: str | None = None
    caption: str | None = None
    shape: tuple[Whole, Whole, Whole]
    flip: bool = False


class Optimizer(Settings):
    """Adam with decoupled weight decay; the rate warms up linearly, then decays over the run.

    Attributes:
        rate: the learning rate.
        betas: of Adam.
        weight_decay: decoupled from the gradient (AdamW).
        batch: pictures per step.
        warmup: pictures over which the rate rises from 0.
        decay: how the rate falls to 0 by the end of the run.
        clip: the largest norm of the gradient.
    """

    rate: Positive = 2e-4
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: Annotated[float, pydantic.Field(ge=0)] = 0.0
    batch: Whole = 128
    warmup: Annotated[int, pydantic.Field(ge=0)] = 10_000
    decay: Literal["none", "linear", "cosine"] = "linear"
    clip: Positive = 1.0


class Times(Settings):
    """At which noise levels to train.

    Attributes:
        law: uniform over the noise schedule, or ln(sigma / alpha) ~ Normal(mean, std).
        mean, std: of the lognormal law.
    """

    law: Literal["uniform", "lognormal"] = "uniform"
    mean: float = -1.2
    std: Positive = 1.2


class Document(Settings):
    """A recipe: what a YAML file holds.

    ``command``: the command line that it is for.
    """

    command: ClassVar[str] = "hasten train RECIPE"

    name: Annotated[str, pydantic.Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")]

    @classmethod
    def takes(cls, objective: object) -> bool:
        """Whether a file with this ``objective`` (None where it has none) is of this kind."""
        return objective is None

    @classmethod
    def upgraded(cls, fields: dict[str, object]) -> dict[str, object]:
        """The ``fields`` of a file that an older version wrote, under the names of this one."""
        return fields


class Run(Document):
    """What every training run has. Amounts are in pictures, so that they do not depend on the
    batch.

    Attributes:
        name: of what is trained; small letters, digits, and . _ -
        optimizer: its settings.
        pictures: how many pictures to train on.
        ema: decay of the exponential moving average of the weights, per step.
        precision: no for float32, bf16 for mixed precision.
        channels_last: the memory layout that is usually faster for convolutions.
        compile: run the network through torch.compile.
        seed: of all random numbers.
        checkpoint_every: pictures between checkpoints.
        preview_every: pictures between grids of previews; 0 for none.
        track: where the loss is logged.
    """

    optimizer: Optimizer = Optimizer()
    pictures: Whole
    ema: Annotated[float, pydantic.Field(gt=0, lt=1)] = 0.9999
    precision: Literal["no", "bf16"] = "no"
    channels_last: bool = True
    compile: bool = False
    seed: Annotated[int, pydantic.Field(ge=0)] = 0
    checkpoint_every: Whole = 50_000
    preview_every: Annotated[int, pydantic.Field(ge=0)] = 100_000
    track: Literal["none", "tensorboard", "trackio"] = "none"

    @property
    def steps(self) -> int:
        return -(-self.pictures // self.optimizer.batch)


class Recipe(Run):
    """A diffusion model, trained from scratch.

    Attributes:
        data: the pictures.
        network: `class` and the options of that diffusers class, such as `sample_size`,
            `in_channels`, `out_channels`; with labels also its number of class embeddings (one
            more than `labels` where labels are dropped).
        schedule: the noise schedule: ddpm, vp-linear, vp-cosine, edm or flow, with options as in
            flow(shift=3.0).
        prediction: what the network predicts: epsilon, v, x0, flow or edm.
        codec: how pictures become latents: identity, or pixel-unshuffle(factor=2).
        labels: how many classes there are.
        label_dropout: the share of pictures whose label is dropped, for classifier-free guidance.
        times: at which noise levels to train.
    """

    data: Data
    network: dict[str, object]
    schedule: str | dict[str, object] = "ddpm"
    prediction: str = "epsilon"
    codec: str = "identity"
    labels: Whole | None = None
    label_dropout: Annotated[float, pydantic.Field(ge=0, lt=1)] = 0.1
    times: Times = Times()

    @pydantic.model_validator(mode="after")
    def _parts_exist(self) -> Recipe:
        schedule(self.schedule)
        prediction(self.prediction)
        codecs.parse(self.codec).encoded_shape(self.data.shape)
        if (self.labels is None) != (self.data.label is None):
            raise ValueError("labels and data.label go together: give both or neither")
        return self

    @property
    def noise_schedule(self) -> NoiseSchedule:
        return schedule(self.schedule)

    @property
    def null_label(self) -> int | None:
        return self.labels if self.labels is not None and self.label_dropout > 0 else None


Kind = TypeVar("Kind", bound=Document)


def load_recipe(file: str | Path | None, *kinds: type[Kind], **changes: object) -> Kind:
    """The recipe in a YAML file, with ``changes`` on top (None is no change); ``data__source``
    changes the field ``source`` of ``data``.

    Args:
        file: None for a recipe of the first of ``kinds`` with nothing but the changes.
        kinds: what the recipe may be; the first that takes the file's objective.

    Raises:
        UserError: a file of another kind, or naming the field that is wrong and what it takes.
    """
    fields: JsonObject = {} if file is None else _read(file)
    objective = changes.get("objective") or fields.get("objective")
    kind = kinds[0] if file is None else _kind(file, objective, kinds)
    fields = kind.upgraded(fields)
    for name, value in changes.items():
        if value is not None:
            *parents, last = name.split("__")
            spot = fields
            for parent in parents:
                spot = spot.setdefault(parent, {})
                if not isinstance(spot, dict):
                    raise UserError(
                        f"recipe field {parent!r} is {spot!r}; it holds fields, such as {last}."
                    )
            spot[last] = value
    return kind(**fields)


def _kind(file: str | Path, objective: object, kinds: Sequence[type[Kind]]) -> type[Kind]:
    for kind in kinds:
        if kind.takes(objective):
            return kind
    wanted = " or ".join(kind.__name__ for kind in kinds)
    has = "no objective" if objective is None else f"objective {objective!r}"
    raise UserError(f"recipe {str(file)!r} has {has}, and a {wanted} is needed; see recipes/.")


def _read(file: str | Path) -> dict[str, object]:
    file = recipe_file(file)
    try:
        fields = yaml.safe_load(file.read_text(encoding=TEXT))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"recipe {str(file)!r} cannot be read: {error}") from error
    if not isinstance(fields, dict):
        raise UserError(
            f"recipe {str(file)!r} holds no fields; `hasten train --fields` lists what it takes."
        )
    return {str(name): value for name, value in fields.items()}
