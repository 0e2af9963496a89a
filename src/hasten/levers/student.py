"""A student in the place of the model: a few-step network, a pruned one, or low-rank weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from hasten.core.artifact import FACTS, located_folder, require_weights
from hasten.core.codec import codecs
from hasten.core.errors import require, require_path
from hasten.core.files import read_json
from hasten.core.lever import Lever, LoadModel, Stage, Trait, levers
from hasten.core.model import Model


@levers.add("student")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Student(Lever):
    """The network of a ``folder`` (or ``builtin:NAME``) that `hasten learn student` or `hasten
    learn prune` wrote for the model; it brings solver, grid, steps and clip where a plan gives
    none of them."""

    folder: str

    stage = Stage.MODEL
    traits = frozenset({Trait.REPLACES, Trait.BITS})
    decides = True

    def __post_init__(self) -> None:
        require_path("lever option folder", self.folder)

    def fields(self) -> Mapping[str, object]:
        return student_plans(self.folder)[0]

    def model(self, model: Model, other_weights: bool, load: LoadModel) -> Model:
        return student_of(model, self.folder, other_weights, load, "student")


def student_plans(folder: str) -> tuple[Mapping[str, object], ...]:
    """The fields of the plans that the student in ``folder`` brings, the best first.

    Raises:
        UserError: there is no such student.
    """
    field = "lever 'student', option folder"
    body = read_json(located_folder(field, folder) / FACTS)
    plans = body.get("plans") if isinstance(body, dict) else None
    plans = plans if isinstance(plans, list) else []
    require(
        bool(plans) and all(isinstance(plan, dict) for plan in plans) and bool(body.get("teacher")),
        f"{field} is {folder!r}, whose {FACTS} names no plans and no teacher; give a folder that "
        "`hasten learn student` wrote.",
    )
    return tuple(plans)


def student_of(
    model: Model, folder: str, other_weights: bool, load: LoadModel, lever: str
) -> Model:
    """The student of ``model`` in ``folder``.

    Raises:
        UserError: a student of other weights, or of other pictures or labels.
    """
    field = f"lever {lever!r}, option folder"
    located_folder(field, folder)
    student = load(folder, model)
    require_weights(field, student.teacher, model, other_weights)
    mine, theirs = ((m.shape, codecs.text(m.codec), m.labels) for m in (model, student))
    require(
        mine == theirs,
        f"{field} is {folder!r}, whose shape, codec and labels are {theirs}, "
        f"and those of model {model.name!r} are {mine}.",
    )
    return student
