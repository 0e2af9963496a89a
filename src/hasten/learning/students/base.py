"""What an objective that makes a student declares."""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, NotRequired, TypedDict

import torch

from hasten.core.level import Level
from hasten.core.model import Model
from hasten.core.noise_schedule import NoiseSchedule
from hasten.core.prediction import prediction as as_prediction
from hasten.core.registry import Registry
from hasten.learning.students.batched_denoiser import Teacher
from hasten.learning.students.compare import Comparison, pixels
from hasten.training.objective import Objective

LOUD = 30.0  # sigma / alpha from which on an error in epsilon is too large an error in x0


@dataclasses.dataclass(frozen=True, kw_only=True)
class DistillationSetup:
    """The models of a stage.

    Attributes:
        teacher: the frozen model that the student is distilled from, with its guidance.
        student: whose network is trained; its prediction and noise schedule are those that the
            objective chose.
        before: the student as it was when the stage began, frozen.
        compare: what pictures are compared as.
    """

    teacher: Teacher
    student: Model
    before: Model
    compare: Comparison = pixels


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stage:
    """One training run of several.

    Attributes:
        name: of its folder.
        evaluations: how many its student is made for.
        share: of the pictures and minutes, beside those of the other stages.
        keep: whether its student is written too.
    """

    name: str
    evaluations: int = 1
    share: float = 1.0
    keep: bool = False


class PlanFields(TypedDict):
    """The fields of a plan for a student, without those that keep their defaults."""

    solver: str
    grid: str
    steps: int
    start: NotRequired[str]


class Distillation(ABC):
    """An objective: a frozen keyword-only dataclass whose fields are its options.

    ``needs``: what it is trained on: ``data`` (real pictures) or ``trajectories`` (the teacher's
    own, from noise to picture through :meth:`trajectory_levels`). ``compares``: its loss is a
    distance of pictures, so it can be one in features. ``fresh``: the student begins with new
    weights instead of the teacher's. ``early``: it can learn the levels below a start that is not
    noise. ``imitates``: its student predicts what the teacher predicts at every level.
    """

    part_name: ClassVar[str]
    needs: ClassVar[str] = "data"
    compares: ClassVar[bool] = False
    fresh: ClassVar[bool] = False
    early: ClassVar[bool] = True
    imitates: ClassVar[bool] = False

    def student(self, teacher: Model) -> Model:
        """``teacher`` with the noise schedule and prediction of the student, which still shares its
        network.

        Where there is hardly any signal, a network that predicts epsilon determines no picture, so
        its student predicts v (2202.00512, section 4).
        """
        top = teacher.schedule.at(teacher.schedule.noisy).ratio
        if teacher.prediction.part_name != "epsilon" or top < LOUD:
            return teacher
        return with_prediction(teacher, "v")

    def trajectory_levels(
        self, schedule: NoiseSchedule, evaluations: int
    ) -> Sequence[tuple[Level, ...]]:
        """For each kind of trajectory the levels of the teacher's ``schedule`` at which its states
        are stored; by default one kind with the two ends."""
        return [(schedule.at(schedule.noisy), schedule.at(schedule.clean))]

    def check(self, teacher: Model, evaluations: int) -> None:  # noqa: B027
        """Refuse a teacher or a number of evaluations that the objective cannot take."""

    def uses_teacher(self) -> bool:
        """Whether it evaluates its teacher; one that does not learns from its data alone."""
        return True

    def stages(self, evaluations: int) -> Sequence[Stage]:
        """The training runs, in order."""
        return [Stage(name=self.part_name, evaluations=evaluations)]

    def module(self, setup: DistillationSetup) -> torch.nn.Module:
        """What is trained: the student's network, which may bring others along."""
        return setup.student.net

    @abstractmethod
    def objective(self, setup: DistillationSetup, stage: Stage) -> Objective:
        """What ``stage`` minimises over :meth:`module`."""

    @abstractmethod
    def plans(self, student: Model, evaluations: int) -> list[PlanFields]:
        """The fields of plans that suit the student, the one it is made for first."""

    def choices(self, student: Model, evaluations: int) -> list[list[PlanFields]]:
        """Alternatives to :meth:`plans`, of which the one with the best pictures is kept."""
        return [self.plans(student, evaluations)]


objectives: Registry[Distillation] = Registry("objective", "hasten.learning.students")


def with_prediction(model: Model, prediction: str) -> Model:
    """``model`` whose network is to have another prediction."""
    return dataclasses.replace(
        model, prediction=as_prediction(prediction), learned_variance=False, sha256=""
    )


class NetworkPair(torch.nn.Module):
    """A student's network and another that is trained with it; called like the student's.

    ``partly``: a step need not give a gradient to every weight.
    """

    partly = True

    def __init__(self, net: torch.nn.Module, other: torch.nn.Module) -> None:
        super().__init__()
        self.net, self.other = net, other
        self.averaged_at: int | None = None  # the step after which ``other`` was last averaged

    def forward(
        self,
        x: torch.Tensor,
        t: torch.Tensor,
        condition: torch.Tensor | None = None,
        other: bool = False,
    ) -> torch.Tensor:
        return (self.other if other else self.net)(x, t, condition)


def student_network(module: torch.nn.Module) -> torch.nn.Module:
    """The student's network in a trained module."""
    return module.net if isinstance(module, NetworkPair) else module


def rounded(place: float) -> float:
    """``place`` in five digits, no higher: a plan may not begin above the top."""
    unit = 10.0 ** (math.floor(math.log10(abs(place))) - 4)
    return float(f"{math.floor(place / unit + 1e-9) * unit:.6g}")
