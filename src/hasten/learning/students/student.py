"""learn_student(model, recipe) -> a diffusers folder: few-step students, whatever the objective."""

from __future__ import annotations

import copy
import dataclasses
import functools
import json
import sys
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState

from hasten.adapters.beside import load_beside
from hasten.adapters.folder import save_folder
from hasten.adapters.lora import add_lora_, save_lora
from hasten.adapters.network_student import save_network
from hasten.adapters.prompted import with_prompts
from hasten.core.artifact import digest
from hasten.core.errors import UserError, require
from hasten.core.files import write_text
from hasten.core.model import Model
from hasten.core.plan import Plan
from hasten.core.start import Shortened, Start, starts
from hasten.learning.compression.pruning import pruned
from hasten.learning.compression.quantization_aware import round_layers_, unrounded
from hasten.learning.students.base import (
    Distillation,
    DistillationSetup,
    PlanFields,
    Stage,
    objectives,
    student_network,
)
from hasten.learning.students.batched_denoiser import Teacher
from hasten.learning.students.card import student_card
from hasten.learning.students.checks import NOISE, require_usable
from hasten.learning.students.compare import Comparison, comparison
from hasten.learning.students.conversion import Conversion
from hasten.learning.students.recipe import StudentRecipe
from hasten.learning.students.rows import TEACHER, EndPictures, captioned_pictures, student_rows
from hasten.learning.students.trajectories import Trajectories
from hasten.learning.students.validation import Validation
from hasten.levers.quantized_layer import Bits
from hasten.levers.student import Student
from hasten.measuring.memory import free_mb, training_mb
from hasten.measuring.real import real_for
from hasten.training.budget import Deadline
from hasten.training.checkpoint import newest
from hasten.training.loop import Training
from hasten.training.objective import LabelsDropped, Objective, Rows

LABEL_DROPOUT = 0.1
CONVERT = "convert"  # the name of the stage that teaches another prediction
MOST_PARTS = 64


def learn_student(
    model: Model,
    recipe: StudentRecipe,
    out: str | Path,
    *,
    minutes: float | None = None,
    quiet: bool = False,
) -> Path:
    """Train a student of ``model`` (or go on with the run beside ``out``) and write it to the
    folder ``out``: a diffusers folder with a card and its plans.

    ``out.run`` gets a folder a stage, with checkpoints, previews and the students of earlier
    stages, and ``curve.json``. ``minutes`` is the budget of all of it, the teacher's trajectories
    among it.

    Raises:
        UserError: a teacher, data or a number of evaluations that the objective cannot take; a run
            of another recipe.
        NonFiniteError: the loss is not finite; the last good checkpoint stays.
    """
    deadline = None if minutes is None else Deadline.after(minutes)
    objective, out = objectives.parse(recipe.objective), Path(out)
    captioned = captioned_pictures(model, recipe)
    if captioned is not None:
        model = with_prompts(model, captioned.captions)
    if recipe.guidance is None and (objective.uses_teacher() or recipe.data == TEACHER):
        recipe = recipe.model_copy(update={"guidance": model.plan.get("guidance", 1.0)})
    objective.check(model, recipe.evaluations)
    require_usable(model, recipe, objective)
    recipe = recipe.model_copy(update={"teacher": digest(model)})
    run = out.with_name(out.name + ".run")
    with PartialState().main_process_first():  # the others find what it made
        rows = student_rows(model, recipe, objective, run, quiet, deadline, captioned)
    teacher = Teacher(model=_on(model, PartialState().device), scale=recipe.scale)
    student_run = StudentRun(
        recipe=recipe,
        objective=objective,
        teacher=teacher,
        rows=rows,
        run=run,
        deadline=deadline,
        quiet=quiet,
        compare=comparison(teacher.model, recipe.compare),
    )
    student = student_run.train_()
    if PartialState().is_main_process:
        student_run.write(student, recipe.evaluations, out)
        student_run.validation.animation(run / "learning.gif")
    PartialState().wait_for_everyone()
    return out


@dataclasses.dataclass(frozen=True, kw_only=True)
class StudentRun:
    """The stages of one student, each begun with the averaged weights of the last."""

    recipe: StudentRecipe
    objective: Distillation
    teacher: Teacher
    rows: Rows
    run: Path
    deadline: Deadline | None
    quiet: bool
    compare: Comparison

    @functools.cached_property
    def start(self) -> Start:
        return starts.parse(self.recipe.start)

    def _below(self, model: Model) -> Model:
        """``model`` on the part of its noise schedule that lies below the start."""
        return dataclasses.replace(model, schedule=self.start.shortened(model.schedule))

    def _planned(self, plans: list[PlanFields]) -> list[PlanFields]:
        """The plans of an objective, which knows nothing of the start."""
        if self.recipe.start == NOISE:
            return plans
        return [{**fields, "start": self.recipe.start} for fields in plans]

    @functools.cached_property
    def validation(self) -> Validation:
        real = real_for(self.teacher.model) if self.recipe.validation_pictures else None
        return Validation(
            run=self.run,
            real=real,
            n=self.recipe.validation_pictures,
            patience=self.recipe.patience,
        )

    def train_(self) -> Model:
        """The student after all stages."""
        student = self._initial()
        stages = self._stages(student)
        for number, stage in enumerate(stages):
            left = sum(other.share for other in stages[number:])
            self._stage_(student, stage, stage.share / left)
            if stage.keep and PartialState().is_main_process:
                self.write(student, stage.evaluations, self.run / "students" / stage.name)
        return student

    def _stages(self, student: Model) -> list[Stage]:
        """All training runs, their shares adding up to 1."""
        stages = list(self.objective.stages(self.recipe.evaluations))
        convert = self.recipe.convert if self._converts(student) else 0.0
        total = sum(stage.share for stage in stages) / (1.0 - convert)
        stages = [dataclasses.replace(stage, share=stage.share / total) for stage in stages]
        first = Stage(name=CONVERT, evaluations=stages[0].evaluations, share=convert)
        return [first, *stages] if convert else stages

    def _initial(self) -> Model:
        """The student before it has learned anything, ready to be trained."""
        kind = self.objective.student(self._below(self.teacher.model))
        if self.recipe.prune:
            rows = EndPictures(self.rows) if self.objective.needs == "trajectories" else self.rows
            kind = pruned(kind, self.recipe.prune, rows)
        if isinstance(kind.schedule, Shortened):
            kind = dataclasses.replace(kind, schedule=kind.schedule.whole)
        net = self._fresh(kind) if self.objective.fresh else copy.deepcopy(kind.net)
        if self.recipe.begin is not None:
            before = self._before(kind)
            kind, net = dataclasses.replace(kind, prediction=before.prediction), before.net
        net = net.float().train().requires_grad_(True)
        if self.recipe.lora:
            add_lora_(net, self.recipe.lora)
        if self.recipe.bits:
            round_layers_(net, Bits.parse(self.recipe.bits))
        facts = {"name": self.recipe.name, "teacher": self.recipe.teacher, "sha256": ""}
        facts |= {"folder": None, "guidance": self.recipe.scale}
        return dataclasses.replace(kind, net=net, **facts)

    def _before(self, kind: Model) -> Model:
        """The student whose weights the run begins with."""
        before = Student(folder=self.recipe.begin or "").model(
            self.teacher.model, False, load_beside
        )
        free = kind.prediction == self.teacher.model.prediction
        require(
            before.schedule == kind.schedule and (free or before.prediction == kind.prediction),
            f"begin is {self.recipe.begin!r}, which predicts {before.prediction.part_name!r} on "
            "noise "
            f"schedule {before.schedule.part_name!r}; students of objective "
            f"{self.objective.part_name!r} predict {kind.prediction.part_name!r} on "
            f"{kind.schedule.part_name!r}. Drop begin.",
        )
        return dataclasses.replace(before, net=copy.deepcopy(before.net))

    def _fresh(self, kind: Model) -> torch.nn.Module:
        """A network like that of ``kind`` with the weights that the seed gives."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(self.recipe.seed)
            try:
                return kind.family.fresh(kind.net).to(kind.device)
            except UserError as error:
                raise UserError(
                    f"objective {self.objective.part_name!r} begins with new weights, but {error}"
                ) from None

    def _converts(self, student: Model) -> bool:
        if self.objective.fresh or self.recipe.begin is not None or self.recipe.convert == 0:
            return False
        mine, theirs = student, self.teacher.model
        same = mine.prediction == theirs.prediction and mine.schedule == theirs.schedule
        return not same

    def _stage_(self, student: Model, stage: Stage, share: float) -> None:
        """Train ``student`` in place, in ``share`` of the time that is left."""
        module, loss, rows, plan = self._stage_parts(student, stage)
        pictures = max(1, round(stage.share * self.recipe.pictures))

        def preview(net: torch.nn.Module, seen: int) -> dict[str, float] | None:
            now = dataclasses.replace(student, net=student_network(net))
            return self.validation.preview(now, plan, stage.name, seen)

        training = Training(
            recipe=self.recipe.model_copy(update={"pictures": pictures}),
            objective=loss,
            net=module,
            rows=rows,
            run=self.run / stage.name,
            preview=preview,
            deadline=None if self.deadline is None else self.deadline.share(share),
            quiet=self.quiet,
            parts=self._parts(student),
        )
        average = training.fit_()
        average.put_(module)
        best = self.validation.best(stage.name)
        if best is not None:
            student_network(module).load_state_dict(best)

    def _stage_parts(
        self, student: Model, stage: Stage
    ) -> tuple[torch.nn.Module, Objective, Rows, Plan]:
        """The module, loss and rows of ``stage``, and the plan of its previews."""
        whole = self.objective.needs == "trajectories"
        here = self._below(student)
        if stage.name == CONVERT:
            teacher = self.teacher if self.teacher.model.schedule == student.schedule else None
            loss = self._with_null(Conversion(student=here, teacher=teacher), student)
            rows = EndPictures(self.rows) if whole else self.rows
            return student.net, loss, rows, Plan(start=self.recipe.start)
        before = dataclasses.replace(here, net=_frozen(student.net))
        setup = DistillationSetup(
            teacher=self.teacher, student=here, before=before, compare=self.compare
        )
        loss = self.objective.objective(setup, stage)
        plan = Plan(**self._planned(self.objective.plans(here, stage.evaluations))[0])
        if not whole:
            loss = self._with_null(loss, student)
        return self.objective.module(setup), loss, self.rows, plan

    def _with_null(self, loss: Objective, student: Model) -> Objective:
        """Trajectories of the teacher have the null label among theirs; pictures are given it at
        times."""
        if student.null_label is None or isinstance(self.rows, (Trajectories, EndPictures)):
            return loss
        return LabelsDropped(objective=loss, null_label=student.null_label, share=LABEL_DROPOUT)

    def _parts(self, student: Model) -> int:
        """In how many parts a step's pictures will fit into memory."""
        batch = self.recipe.optimizer.batch // PartialState().num_processes
        parts, free = 1, free_mb(student.device)
        need = training_mb(student, batch)
        while need is not None and need > free and 2 * parts <= min(batch, MOST_PARTS):
            parts *= 2
            need = training_mb(student, -(-batch // parts))
        if parts > 1 and not self.quiet:
            print(
                f"{free:.0f} MB are free; a step's {batch} pictures are taken in {parts} parts of "
                f"about {need or 0:.0f} MB.",
                file=sys.stderr,
            )
        return parts

    def write(self, student: Model, evaluations: int, out: Path) -> None:
        """The student as a folder, with the plans that give the best pictures, and their FD (of a
        student that was trained quantization-aware, with its weights rounded)."""
        net = _frozen(student.net)
        ready = dataclasses.replace(student, net=net)
        choices = self.objective.choices(self._below(ready), evaluations)
        choices = [self._planned(choice) for choice in choices]
        plans = self.validation.best_choice(ready, choices)
        measured = self.validation.final_quality(ready, plans)
        ready = dataclasses.replace(ready, net=unrounded(net), plans=tuple(plans))
        if self.objective.imitates:
            ready = dataclasses.replace(ready, imitates=True)
        whole = save_network if student.prompts else save_folder
        save = save_lora if self.recipe.lora else whole
        card = student_card(self.recipe, self.teacher.model, plans, measured, self._seen())
        save(ready, out, card)
        facts = {"plans": plans, "quality": measured}
        write_text(self.run / f"verdict-{out.name}.json", json.dumps(facts, indent=1) + "\n")

    def _seen(self) -> int:
        """Pictures that the run has seen, in all of its stages."""
        last = [newest(folder) for folder in self.run.iterdir() if folder.is_dir()]
        steps = sum(int(folder.name.removeprefix("step-")) for folder in last if folder)
        return steps * self.recipe.optimizer.batch


def _frozen(net: torch.nn.Module) -> torch.nn.Module:
    return copy.deepcopy(net).eval().requires_grad_(False)


def _on(model: Model, device: Any) -> Model:
    same = model.device.type == device.type
    return model if same else dataclasses.replace(model, net=_frozen(model.net).to(device))
