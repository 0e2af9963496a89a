"""What a student is trained on: real pictures, or trajectories of its teacher."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import torch

from hasten.adapters.vae_codec import VaeCodec
from hasten.core.errors import UserError, require
from hasten.core.model import Model
from hasten.core.start import starts
from hasten.data.drawn import drawn
from hasten.data.rows import Pictures, load_rows, picture_column
from hasten.learning.students.base import Distillation
from hasten.learning.students.recipe import StudentRecipe
from hasten.learning.students.trajectories import teacher_trajectories
from hasten.training.budget import Deadline
from hasten.training.latents import Latents, encoded
from hasten.training.objective import Encoded, PictureSource, Rows

TEACHER = "teacher"  # in place of data: the teacher's own samples


@dataclasses.dataclass(frozen=True)
class EndPictures:
    """The pictures at the ends of trajectories."""

    rows: Rows

    @property
    def labels(self) -> torch.Tensor | None:
        return self.rows.labels

    def __len__(self) -> int:
        return len(self.rows)

    def at(self, index: np.ndarray, key: tuple[int, ...], device: torch.device) -> torch.Tensor:
        return self.rows.at(index, key, device)[:, -1]


@dataclasses.dataclass(frozen=True, kw_only=True)
class CaptionedPictures:
    """Pictures, the captions that differ, and which of these is that of each picture (n,)."""

    pictures: PictureSource
    captions: tuple[str, ...]
    labels: torch.Tensor

    def encoded(self, model: Model, run: Path, data: str | None, *, quiet: bool) -> Latents:
        """Their latents, kept in the folder ``run``; those that are there stay."""
        assert isinstance(model.codec, VaeCodec)
        latents = encoded(self.pictures, model.codec, run / "latents", [data], quiet=quiet)
        return Latents(latents=latents, labels=self.labels)


def captioned_pictures(model: Model, recipe: StudentRecipe) -> CaptionedPictures | None:
    """The data of ``recipe``, where they have captions and ``model`` reads prompts.

    Raises:
        UserError: no such column, pictures of another shape, or mirrored ones, whose captions would
            be wrong.
    """
    if not model.prompts or recipe.data is None or recipe.data == TEACHER:
        return None
    shape, pictures = model.picture_shape, None
    if recipe.data.partition("(")[0] in drawn:
        pictures = drawn.parse(recipe.data)
        require(
            pictures.shape == shape,
            f"data {recipe.data!r} has pictures of {pictures.shape}, and model {model.name!r} "
            f"makes {shape}.",
        )
    elif recipe.caption is not None:
        rows = load_rows(recipe.data)
        pictures = Pictures(rows, shape, picture_column(rows), caption=recipe.caption)
    if pictures is None:
        return None
    require(not recipe.flip, "flip: captions say what is on the left; set flip to false.")
    captions = pictures.captions(np.arange(len(pictures)))
    numbers = {text: number for number, text in enumerate(dict.fromkeys(captions))}
    labels = torch.tensor([numbers[text] for text in captions])
    return CaptionedPictures(pictures=pictures, captions=tuple(numbers), labels=labels)


def student_rows(
    model: Model,
    recipe: StudentRecipe,
    objective: Distillation,
    run: Path,
    quiet: bool,
    deadline: Deadline | None = None,
    captioned: CaptionedPictures | None = None,
) -> Rows:
    """What ``recipe`` trains a student of ``model`` on; ``captioned`` are its data, where they have
    captions."""
    whole = objective.needs == "trajectories"
    schedule = starts.parse(recipe.start).shortened(model.schedule)
    if whole or recipe.data == TEACHER:
        ends = [(schedule.at(schedule.noisy), schedule.at(schedule.clean))]
        trajectories = teacher_trajectories(
            model,
            objective.trajectory_levels(schedule, recipe.evaluations) if whole else ends,
            run,
            count=recipe.trajectories,
            steps=recipe.trajectory_steps,
            guidance=recipe.scale,
            start=recipe.start,
            engine=recipe.engine,
            quiet=quiet,
            deadline=deadline,
        )
        return trajectories if whole else EndPictures(trajectories)
    if recipe.data is None:
        raise UserError(
            f"objective {objective.part_name!r} trains on real pictures; give --data (a parquet "
            "file, a folder, a hub name, or 'teacher' for its own samples), or use 'direct', "
            "'trajectory', 'reflow' or 'dmd'."
        )
    if captioned is not None:
        return captioned.encoded(model, run, recipe.data, quiet=quiet)
    rows = load_rows(recipe.data)
    label = None if model.labels is None else recipe.label
    pictures = Pictures(rows, model.picture_shape, picture_column(rows), label)
    if pictures.labels is not None and model.labels is not None:
        low, high = int(pictures.labels.min()), int(pictures.labels.max())
        require(
            low >= 0 and high < model.labels,
            f"data has labels from {low} to {high}, and model {model.name!r} has {model.labels}.",
        )
    return Encoded(pictures=pictures, codec=model.codec, flip=recipe.flip)
