"""The recipe of a student."""

from __future__ import annotations

from typing import Annotated, ClassVar

import pydantic

from hasten.core.start import starts
from hasten.learning.students.base import objectives
from hasten.levers.quantized_layer import Bits
from hasten.measuring.quality import FEWEST
from hasten.training.recipe import Optimizer, Run, Whole

RENAMED = {
    "walks": "trajectories",
    "walk_steps": "trajectory_steps",
    "judged": "validation_pictures",
}
RENAMED_OBJECTIVES = {"imitation": "knowledge-distillation", "matching": "dmd"}


def _judgeable(pictures: int) -> int:
    if pictures != 0 and pictures < FEWEST:
        raise ValueError(f"FD takes {FEWEST} pictures or more, and 0 is for none")
    return pictures


class StudentRecipe(Run):
    """A few-step student of a model.

    Attributes:
        objective: how it is trained, with options, such as consistency(q=8); `hasten learn student
            --help` lists them.
        evaluations: network evaluations per picture that it is made for.
        data: real pictures (a parquet file, a folder, a hub name), where the objective trains on
            them; "teacher" takes the teacher's own samples.
        label: the column of the data that holds the labels.
        caption: the column of the data that holds the captions, for a text-to-image model; drawn
            data has captions without it.
        flip: also train on mirror images.
        guidance: the classifier-free guidance scale of the teacher, distilled into the student; by
            default that of the teacher's own plan, where the objective evaluates the teacher.
        convert: share of the pictures that first train a student whose prediction differs from its
            teacher's to convert to it.
        begin: the folder of another student of the same teacher to initialise from, in place of the
            teacher.
        start: where its sampling begins, as in a plan: at pure noise, or at a start at a lower
            noise level, so that it need not learn the levels above.
        trajectories: how many of the teacher's trajectories are stored, where the objective trains
            on them.
        trajectory_steps: how many steps each of them has.
        engine: what runs the teacher.
        compare: what a loss between pictures compares: "pixels", "features" (of the teacher's
            classifier), or the features of a vision model, by folder or hub id.
        lora: rank of a low-rank student, a small file; 0 trains the whole network.
        prune: share of the multiply-accumulates to remove before it is trained.
        bits: quantization-aware training: the bits of weights and activations (w8a8, w4a8) that its
            layers round to; what is written is float32, ready to be quantized.
        validation_pictures: samples of the student for FD at each preview; 0 for none.
        patience: the run ends after this many previews without a better FD; 0 for never.
        teacher: sha256 of the teacher's weights; hasten fills it in.
    """

    command: ClassVar[str] = "hasten learn student MODEL --recipe RECIPE"

    objective: str = "consistency"
    evaluations: Annotated[int, pydantic.Field(ge=1, le=4096)] = 2
    data: str | None = None
    label: str = "label"
    caption: str | None = None
    flip: bool = False
    guidance: Annotated[float, pydantic.Field(ge=0, le=100)] | None = None
    convert: Annotated[float, pydantic.Field(ge=0, lt=1)] = 0.15
    begin: str | None = None
    start: str = "noise"
    trajectories: Whole = 20_000
    trajectory_steps: Whole = 24
    engine: str = "eager"
    compare: str = "pixels"
    lora: Annotated[int, pydantic.Field(ge=0, le=1024)] = 0
    prune: Annotated[float, pydantic.Field(ge=0, le=0.95)] = 0.0
    bits: str | None = None
    validation_pictures: Annotated[int, pydantic.AfterValidator(_judgeable)] = 500
    patience: Annotated[int, pydantic.Field(ge=0)] = 0
    teacher: str = ""
    name: Annotated[str, pydantic.Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")] = "student"
    optimizer: Optimizer = Optimizer(rate=3e-4, decay="cosine")
    pictures: Whole = 1_000_000
    ema: Annotated[float, pydantic.Field(gt=0, lt=1)] = 0.999

    @property
    def scale(self) -> float:
        """The guidance scale that is distilled."""
        return 1.0 if self.guidance is None else self.guidance

    @classmethod
    def takes(cls, objective: object) -> bool:
        return objective is not None

    @classmethod
    def upgraded(cls, fields: dict[str, object]) -> dict[str, object]:
        fields = {RENAMED.get(name, name): value for name, value in fields.items()}
        name, bracket, options = str(fields.get("objective")).partition("(")
        if name.strip() in RENAMED_OBJECTIVES:
            fields["objective"] = RENAMED_OBJECTIVES[name.strip()] + bracket + options
        return fields

    @pydantic.field_validator("objective")
    @classmethod
    def _known(cls, text: str) -> str:
        return objectives.canonical(text)

    @pydantic.field_validator("bits")
    @classmethod
    def _known_bits(cls, text: str | None) -> str | None:
        return None if text is None else str(Bits.parse(text))

    @pydantic.field_validator("start")
    @classmethod
    def _known_start(cls, text: str) -> str:
        return starts.canonical(text)
