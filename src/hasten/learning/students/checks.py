"""Refuse a recipe of a student that cannot work, before anything is trained."""

from __future__ import annotations

import dataclasses

from hasten.adapters.beside import load_beside
from hasten.adapters.lora import inner
from hasten.core.errors import require
from hasten.core.model import Model
from hasten.core.plan import Plan
from hasten.core.start import starts
from hasten.learning.students.base import Distillation
from hasten.learning.students.recipe import StudentRecipe
from hasten.learning.students.rows import TEACHER
from hasten.levers.student import Student
from hasten.sampling import build

NOISE = "noise"  # the start at the noisy end


def require_usable(model: Model, recipe: StudentRecipe, objective: Distillation) -> None:
    """Refuse what would be ignored, and what would only be missed when the training is over.

    Raises:
        UserError: naming the field of the recipe and what to do.
    """
    _require_fitting(recipe, objective)
    if recipe.lora:
        inner(model.net)
    _require_guided(model, recipe, objective)
    kinds = objective.trajectory_levels(model.schedule, recipe.evaluations)
    require(
        recipe.start == NOISE or len(kinds) == 1,
        f"start is {recipe.start!r}, but a student for several numbers of evaluations begins at "
        "several levels; drop start, or the option fewest.",
    )
    schedule = starts.parse(recipe.start).shortened(model.schedule)
    kind = objective.student(dataclasses.replace(model, schedule=schedule))
    for stage in objective.stages(recipe.evaluations):
        objective.plans(kind, stage.evaluations)
    build(model, Plan(start=recipe.start))
    if recipe.begin is not None:
        Student(folder=recipe.begin).model(model, False, load_beside)


def _require_fitting(recipe: StudentRecipe, objective: Distillation) -> None:
    """Refuse fields that go neither together nor with the objective."""
    name = objective.part_name
    require(
        recipe.compare == "pixels" or objective.compares,
        f"compare is {recipe.compare!r}, but the loss of objective {name!r} is no distance of "
        "pictures; drop compare.",
    )
    require(
        recipe.data is None or objective.needs == "data",
        f"data is given, but objective {name!r} trains on the teacher's own trajectories; drop "
        "data.",
    )
    require(
        recipe.begin is None or not objective.fresh,
        f"begin is {recipe.begin!r}, but objective {name!r} begins with new weights; drop begin.",
    )
    require(
        recipe.begin is None or recipe.lora == 0,
        "begin and lora do not go together; drop one.",
    )
    require(
        recipe.bits is None or recipe.lora == 0,
        "bits and lora do not go together; drop one.",
    )
    clash = "lora" if recipe.lora else "begin" if recipe.begin else None
    require(
        recipe.prune == 0 or clash is None,
        f"prune and {clash} do not go together: prune first, with objective "
        "'knowledge-distillation', and begin the next run with what that gave.",
    )
    require(
        recipe.prune == 0 or not objective.fresh,
        f"prune is {recipe.prune:g}, but objective {name!r} begins with new weights; drop prune.",
    )
    require(
        recipe.start == NOISE or objective.early,
        f"start is {recipe.start!r}, but objective {name!r} learns all levels; drop start.",
    )


def _require_guided(model: Model, recipe: StudentRecipe, objective: Distillation) -> None:
    """Refuse guidance that the model or the objective knows nothing of."""
    name = objective.part_name
    require(
        recipe.scale == 1.0 or model.null_label is not None,
        f"guidance is {recipe.scale:g}, but model {model.name!r} was not trained with dropped "
        "labels; set guidance to 1.",
    )
    require(
        recipe.scale == 1.0 or objective.uses_teacher() or recipe.data == TEACHER,
        f"guidance is {recipe.scale:g}, but objective {name!r} learns from its data and never "
        "evaluates the teacher; give --data teacher, or set guidance to 1.",
    )
