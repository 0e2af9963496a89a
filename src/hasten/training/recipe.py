"""A training recipe: a YAML file, checked before anything starts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
import yaml

from hasten.core.codec import codecs
from hasten.core.errors import UserError
from hasten.core.noise_schedule import NoiseSchedule as NoiseSchedule
from hasten.core.noise_schedule import schedule
from hasten.core.prediction import prediction
from hasten.core.settings import Settings
from hasten.training.shipped import recipe_file

Whole = Annotated[int, pydantic.Field(ge=1)]
Positive = Annotated[float, pydantic.Field(gt=0)]


class Data(Settings):
    """Where the pictures are.

    Attributes:
        source: a parquet file, a folder of pictures, or a hub name; `--data` replaces it.
        split: which split is read, where the source has several.
        image: the column that holds the pictures.
        label: the column that holds the labels, for a class-conditional model.
        shape: channels (1 or 3), height and width; other pictures are resized to cover it, then cut
            to its centre.
        flip: also train on mirror images.
    """

    source: str
    split: str = "train"
    image: str = "image"
    label: str | None = None
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
        decay: how the rate falls to 0 until the end of the run.
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


class Run(Settings):
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
        seed: of everything that is drawn.
        checkpoint_every: pictures from one checkpoint to the next.
        preview_every: pictures from one grid of previews to the next; 0 for none.
        track: where the loss is logged.
    """

    name: Annotated[str, pydantic.Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")]
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
        network: `class` (UNet2DModel or DiTTransformer2DModel) and the options of that diffusers
            class, such as `sample_size`, `in_channels`, `out_channels`; with labels also
            `num_class_embeds` (one more than `labels` where labels are dropped).
        schedule: how noise is added: a name, or `name` and its options.
        prediction: what the network answers: epsilon, v, x0, flow or edm.
        codec: what the network sees of a picture: identity, or pixel-unshuffle(factor=2).
        labels: how many classes there are.
        label_dropout: the share of pictures whose label is dropped, for classifier-free guidance.
        times: at which noise levels to train.
    """

    data: Data
    network: dict[str, Any]
    schedule: str | dict[str, Any] = "ddpm"
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


class StudentRecipe(Run):
    """A few-step student of a model.

    Attributes:
        objective: how it is trained, with options, such as consistency(q=8); `hasten learn student
            --help` lists them.
        evaluations: network calls per picture that it is made for.
        data: real pictures (a parquet file, a folder, a hub name), where the objective trains on
            them; "teacher" takes the teacher's own samples.
        label: the column of the data that holds the labels.
        flip: also train on mirror images.
        guidance: the classifier-free guidance scale of the teacher, which the student takes over.
        convert: share of the pictures with which a student is first trained to predict what its
            objective needs, where its teacher predicts something else.
        begin: the folder of another student of the same teacher, whose weights the run begins with;
            without it, the teacher's.
        start: where its sampling begins, as in a plan: at the highest noise level, or below it from
            something cheap, so that it need not learn the levels above.
        walks: how many of the teacher's trajectories are kept, where the objective trains on them.
        walk_steps: how many steps such a trajectory has.
        engine: what runs the teacher.
        compare: what pictures are compared as where the loss is a distance of pictures: "pixels",
            "features" (the classifier beside the teacher), or a vision model's folder or hub id.
        lora: rank of a low-rank student, a small file; 0 trains the whole network.
        prune: share of the multiply-accumulates to remove before it is trained.
        bits: quantization-aware training: the bits of weights and activations (w8a8, w4a8) that
            its layers round to; what is written is float32, ready to be quantized.
        judged: pictures for FD at each preview; 0 for none.
        patience: previews without a better FD after which the run ends; 0 for never.
        teacher: sha256 of the teacher's weights; hasten fills it in.
    """

    objective: str = "consistency"
    evaluations: Annotated[int, pydantic.Field(ge=1, le=4096)] = 2
    data: str | None = None
    label: str = "label"
    flip: bool = False
    guidance: Annotated[float, pydantic.Field(ge=0, le=100)] = 1.0
    convert: Annotated[float, pydantic.Field(ge=0, lt=1)] = 0.15
    begin: str | None = None
    start: str = "noise"
    walks: Whole = 20_000
    walk_steps: Whole = 24
    engine: str = "eager"
    compare: str = "pixels"
    lora: Annotated[int, pydantic.Field(ge=0, le=1024)] = 0
    prune: Annotated[float, pydantic.Field(ge=0, le=0.95)] = 0.0
    bits: str | None = None
    judged: Annotated[int, pydantic.Field(ge=0)] = 500
    patience: Annotated[int, pydantic.Field(ge=0)] = 0
    teacher: str = ""
    name: Annotated[str, pydantic.Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")] = "student"
    optimizer: Optimizer = Optimizer(rate=3e-4, decay="cosine")
    pictures: Whole = 1_000_000
    ema: Annotated[float, pydantic.Field(gt=0, lt=1)] = 0.999

    @pydantic.field_validator("objective")
    @classmethod
    def _known(cls, text: str) -> str:
        from hasten.learning.students.base import objectives

        return objectives.canonical(text)

    @pydantic.field_validator("bits")
    @classmethod
    def _known_bits(cls, text: str | None) -> str | None:
        from hasten.levers.quantized_layer import Bits

        return None if text is None else str(Bits.parse(text))

    @pydantic.field_validator("start")
    @classmethod
    def _known_start(cls, text: str) -> str:
        from hasten.core.start import starts

        return starts.canonical(text)


class VaeRecipe(Recipe):
    """A small variational autoencoder of a model's latents.

    Attributes:
        objective: always vae.
        code: numbers in the code of a picture.
        width: channels of the first layer.
    """

    objective: Literal["vae"]
    network: dict[str, Any] = pydantic.Field(default_factory=dict)
    code: Whole = 16
    width: Whole = 64


class ClassifierRecipe(Settings):
    """A small classifier, and the statistics of its features over the data.

    Attributes:
        objective: always classifier.
        name: of the classifier.
        data: the pictures to train on, with their labels.
        test: the pictures to test on, with their labels.
        epochs: how often each picture is seen.
        seed: of everything that is drawn.
    """

    objective: Literal["classifier"]
    name: Annotated[str, pydantic.Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")]
    data: Data
    test: Data
    epochs: Whole = 4
    seed: Annotated[int, pydantic.Field(ge=0)] = 0


def load_recipe(file: str | Path | None, kind: type[Settings] | None = None, **changes: Any) -> Any:
    """The Recipe, StudentRecipe, VaeRecipe or ClassifierRecipe in a YAML file, with ``changes`` on
    top (None is no change); ``data__source`` changes the field ``source`` of ``data``.

    Args:
        file: None for a recipe of ``kind`` with nothing but the changes.
        kind: the only one that will do.

    Raises:
        UserError: naming the field that is wrong and what it takes.
    """
    given = {} if file is None else _read(file)
    for name, value in changes.items():
        if value is not None:
            *parents, last = name.split("__")
            spot = given
            for parent in parents:
                spot = spot.setdefault(parent, {})
                if not isinstance(spot, dict):
                    raise UserError(
                        f"recipe field {parent!r} is {spot!r}; it holds fields, such as {last}."
                    )
            spot[last] = value
    kinds: dict[str, type[Settings]] = {"classifier": ClassifierRecipe, "vae": VaeRecipe}
    objective = given.get("objective")
    found = kinds.get(str(objective), StudentRecipe if objective else Recipe)
    if kind is not None and file is not None and found is not kind:
        raise UserError(
            f"recipe {str(file)!r} is a {found.__name__}, and a {kind.__name__} is needed; see "
            "`hasten train --fields`."
        )
    return (kind or found)(**given)


def _read(file: str | Path) -> dict[str, Any]:
    file = recipe_file(file)
    try:
        given = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"recipe {str(file)!r} cannot be read: {error}") from error
    if not isinstance(given, dict):
        raise UserError(
            f"recipe {str(file)!r} holds no fields; `hasten train --fields` lists what it takes."
        )
    return {str(name): value for name, value in given.items()}
