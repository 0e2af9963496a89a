"""Knowledge distillation: a smaller student predicts what its teacher predicts, at every level
(Hinton et al. 1503.02531), and may match the features of its teacher (Romero et al. 1412.6550).

It makes no fewer steps possible. It is how a network recovers that was pruned, and it serves every
solver that its teacher serves.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator

import numpy as np
import torch

from hasten.core.call import Output
from hasten.core.errors import require_number
from hasten.core.family import family_of
from hasten.core.level import Level
from hasten.core.model import Model
from hasten.learning.students.base import (
    Distillation,
    DistillationSetup,
    NetworkPair,
    PlanFields,
    Stage,
    objectives,
)
from hasten.learning.students.batched_denoiser import Levels, Teacher
from hasten.training.columns import columns
from hasten.training.noise_prediction import draw_positions
from hasten.training.objective import Batch
from hasten.training.recipe import Times


@objectives.add("knowledge-distillation")
@dataclasses.dataclass(frozen=True, kw_only=True)
class KnowledgeDistillation(Distillation):
    """Squared error of the answer, in its own unit, at uniform positions; beside it, weighted by
    ``features``, that of the outputs of the blocks as seen through learned 1x1 projections, each in
    units of its own size. Features are no aim, so their weight falls to 0 by the middle of the run.

    Where channels were cut by importance, they have only been in the way (docs/log.md).
    """

    imitates = True

    features: float = 0.0

    def __post_init__(self) -> None:
        require_number("objective option features", self.features, 0.0, 100.0)

    def student(self, teacher: Model) -> Model:
        return teacher

    def module(self, setup: DistillationSetup) -> torch.nn.Module:
        if self.features == 0:
            return setup.student.net
        return WithProjections.beside(setup.student, setup.teacher.model)

    def objective(self, setup: DistillationSetup, stage: Stage) -> OutputLoss:
        return OutputLoss(student=setup.student, teacher=setup.teacher, weight=self.features)

    def plans(self, student: Model, evaluations: int) -> list[PlanFields]:
        return [{"solver": "unipc(order=3)", "grid": "uniform", "steps": evaluations}]


@contextlib.contextmanager
def block_outputs(net: torch.nn.Module) -> Iterator[list[torch.Tensor]]:
    """The outputs of the blocks of ``net``, in the order in which they run, while it is called
    once."""
    outputs: list[torch.Tensor] = []

    def keep(block: object, args: object, out: torch.Tensor | tuple[torch.Tensor, ...]) -> None:
        outputs.append(out[0] if isinstance(out, tuple) else out)

    hooks = [block.register_forward_hook(keep) for block in family_of(net).blocks(net)]
    try:
        yield outputs
    finally:
        for hook in hooks:
            hook.remove()


class WithProjections(NetworkPair):
    """A student's network, and projections of its blocks' outputs to those of its teacher's."""

    @staticmethod
    def beside(student: Model, teacher: Model) -> WithProjections:
        """With projections of the sizes that both networks' blocks have; none where one of them
        has fewer blocks."""
        mine, theirs = (_sizes(model) for model in (student, teacher))
        pairs = list(zip(mine, theirs, strict=True)) if len(mine) == len(theirs) else []
        return WithProjections(
            student.net, torch.nn.ModuleList(_projection(a, b) for a, b in pairs)
        )

    def forward(
        self,
        x: torch.Tensor,
        t: torch.Tensor,
        condition: torch.Tensor | None = None,
        other: bool = False,
    ) -> Output:
        if not other:
            return self.net(x, t, condition)
        with block_outputs(self.net) as outputs:
            answer = self.net(x, t, condition)
        assert isinstance(self.other, torch.nn.ModuleList)
        return answer, [project(x) for project, x in zip(self.other, outputs, strict=False)]


def _sizes(model: Model) -> list[torch.Size]:
    condition = model.condition(1).to(model.device)
    x, t = torch.zeros(1, *model.shape), torch.ones(1)
    with torch.no_grad(), block_outputs(model.net) as outputs:
        model.net(x.to(model.device), t.to(model.device), condition)
    return [output.shape for output in outputs]


def _projection(mine: torch.Size, theirs: torch.Size) -> torch.nn.Module:
    """Over channels, which are the second size of maps and the last one of tokens."""
    if len(mine) == 4:
        return torch.nn.Conv2d(mine[1], theirs[1], 1)
    return torch.nn.Linear(mine[-1], theirs[-1])


@dataclasses.dataclass(frozen=True, kw_only=True)
class OutputLoss:
    """``weight`` is that of the features."""

    student: Model
    teacher: Teacher
    weight: float

    def loss(self, net: torch.nn.Module, batch: Batch) -> torch.Tensor:
        x0, schedule = batch.rows, self.student.schedule
        at = Levels.at_positions(
            schedule, draw_positions(schedule, Times(), len(x0), batch.generator)
        )
        x = at.noised(x0, batch.randn_like(x0))
        here = self.student.prediction.at(Level.batch(at.t, at.alpha, at.sigma))
        t, scale, skip, out = columns(
            x0, at.t, here.scale, here.skip, np.broadcast_to(here.out, len(x0))
        )
        with block_outputs(self.teacher.model.net) as theirs:
            wanted = (self.teacher(x, at, batch.labels) - skip * x) / out
        mine: list[torch.Tensor] = []
        weight = self.weight * max(0.0, 1.0 - 2.0 * batch.progress)
        if weight == 0:
            answer = net(scale * x, t.flatten(), batch.labels)
        else:
            answer, mine = net(scale * x, t.flatten(), batch.labels, other=True)
        # Of a network that predicts a variance too, only the first half is compared.
        loss = torch.nn.functional.mse_loss(answer[:, : x0.shape[1]].float(), wanted)
        for own, other in zip(mine, theirs, strict=False):
            apart = (own.float() - other.float()).square().mean() / other.float().square().mean()
            loss = loss + weight / len(mine) * apart
        return loss
