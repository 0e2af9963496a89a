"""What a student is trained on: real pictures, or trajectories of its teacher."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import torch

from hasten.core.errors import UserError, require
from hasten.core.model import Model
from hasten.core.start import starts
from hasten.data.rows import Pictures, load_rows, picture_column
from hasten.learning.students.base import Distillation
from hasten.learning.students.recipe import StudentRecipe
from hasten.learning.students.trajectories import teacher_trajectories
from hasten.training.budget import Deadline
from hasten.training.objective import Encoded, Rows

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


def student_rows(
    model: Model,
    recipe: StudentRecipe,
    objective: Distillation,
    run: Path,
    quiet: bool,
    deadline: Deadline | None = None,
) -> Rows:
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
            guidance=recipe.guidance,
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
