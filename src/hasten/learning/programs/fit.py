"""Fit the few numbers of a program to converged pictures: Adam through the program itself.

The loss is the ODE error: the root mean square of each picture's difference from where the model's own
solution leads from the same noise. The network is frozen. A run that was killed goes on from its
last checkpoint with the same pairs in the same order.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import sys
import time
from pathlib import Path
from typing import Any, Protocol

import torch
from tqdm import tqdm

from hasten.core.artifact import digest
from hasten.core.errors import NonFiniteError, require, require_number, require_whole
from hasten.learning.programs.reference_pairs import Lesson, label_rows
from hasten.learning.programs.solver_coefficients import Table
from hasten.learning.programs.student_program import Crossing
from hasten.measuring.ode_error import Reference
from hasten.sampling import Sampler
from hasten.training import checkpoint
from hasten.training.order import order

SETTLE = 10  # steps before the length of a run is set from its rate
EVERY_S = 30.0  # between checkpoints
WARMUP = 20  # steps in which the rate rises


class Student(Protocol):
    """Numbers that stand for one program or for several ``kinds``, which are fitted in turn."""

    @property
    def kinds(self) -> int: ...

    def table(self, kind: int) -> Table: ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pace:
    """Adam's settings: ``rate`` rises over the first steps and falls to 0 over ``steps``.

    ``frugal`` recomputes the network's activations in the backward pass (gradient checkpointing).
    """

    batch: int = 16
    rate: float = 0.01
    steps: int = 2000
    frugal: bool = False

    def __post_init__(self) -> None:
        require_whole("batch", self.batch, 1, 100_000)
        require_whole("steps", self.steps, 1, 10_000_000)
        require_number("rate", self.rate, 1e-7, 1.0)

    def at(self, step: int, steps: int) -> float:
        """The rate at a step of ``steps``."""
        return self.rate * min(1.0, (step + 1) / WARMUP) * (1 - step / steps)


@dataclasses.dataclass(kw_only=True)
class Fit:
    """One run in the folder ``run``.

    Attributes:
        begun: what the student began as; its start and clip stay.
        subject: what a run must agree in to be gone on with, beside weights, pairs and pace.
    """

    lesson: Lesson
    student: Any
    begun: Sampler
    pace: Pace
    run: Path
    subject: dict[str, Any]
    quiet: bool = True

    def __post_init__(self) -> None:
        self.subject = {
            **self.subject,
            "base": str(self.begun.plan),
            "weights": digest(self.lesson.model),
            **dataclasses.asdict(self.lesson.teaching),
            **dataclasses.asdict(self.pace),
        }

    def fit_(self, minutes: float | None) -> tuple[Any, dict[str, Any]]:
        """Train to the end, at most ``minutes``; the averaged student, and the facts of the run.

        Raises:
            UserError: the folder holds a run of something else.
            NonFiniteError: the loss is not finite; the last checkpoint stays.
        """
        if minutes is not None:
            require_number("minutes", minutes, 0.01, 1e6)
        optimizer = torch.optim.Adam(self.student.parameters(), lr=self.pace.rate)
        average = copy.deepcopy(self.student)
        step, steps, before = self._resume_(optimizer, average)
        before = self.ode_error(self.student) if before is None else before
        bar = tqdm(total=steps, initial=step, desc="learning", disable=self.quiet, file=sys.stderr)
        began = saved = time.monotonic()
        fresh = step == 0 and minutes is not None
        while step < steps:
            loss = self._step_(optimizer, step, steps)
            kept = min(0.98, (1 + step) / (10 + step))
            for mine, new in zip(average.parameters(), self.student.parameters(), strict=True):
                mine.data.lerp_(new.data, 1 - kept)
            step += 1
            bar.set_postfix(ode_error=f"{loss:.4f}", refresh=False)
            bar.update()
            now = time.monotonic()
            if fresh and step == SETTLE:
                assert minutes is not None
                steps = max(step, min(steps, int(step * minutes * 60 / (now - began))))
                bar.total = steps
            if now - saved > EVERY_S or step == steps:
                self._save(optimizer, average, step, steps, before)
                saved = now
        bar.close()
        held = len(self.lesson.check.noise)
        ode_error = {"before": before, "after": self.ode_error(average), "n": held}
        teaching = self.lesson.teaching
        facts = {"teacher": str(teaching.plan), "guidance": teaching.guidance}
        facts |= {"pairs": teaching.pairs, "steps": steps}
        return average, {
            **facts,
            "batch": self.pace.batch,
            "rate": self.pace.rate,
            "ode_error": ode_error,
        }

    @torch.no_grad()
    def ode_error(self, student: Student) -> float:
        """Drift on the pairs held back, the mean over all that the student stands for."""
        held = self.lesson.check
        parts = torch.arange(len(held.noise)).split(64)
        every = [
            self._apart(student.table(kind), held, part)
            for kind in range(student.kinds)
            for part in parts
        ]
        return float(torch.cat(every).mean())

    def _step_(self, optimizer: torch.optim.Optimizer, step: int, steps: int) -> float:
        for group in optimizer.param_groups:
            group["lr"] = self.pace.at(step, steps)
        held = self.lesson.train
        index = torch.from_numpy(
            order(self.lesson.teaching.seed, step, self.pace.batch, len(held.noise))
        )
        table = self.student.table(step % self.student.kinds)
        loss = self._apart(table, held, index).mean()
        value = float(loss.detach())
        if not math.isfinite(value):
            raise NonFiniteError(
                f"the loss is {value} at step {step}; the last checkpoint stays. Lower the rate."
            )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.student.parameters(), 1.0)
        optimizer.step()
        return value

    def _apart(self, table: Table, held: Reference, index: torch.Tensor) -> torch.Tensor:
        """(n,): the root mean square difference of each picture of ``index``."""
        model = self.lesson.model
        crossing = Crossing(
            model=model,
            guidance=self.lesson.teaching.guidance,
            clip=self.begun.plan.clip,
            frugal=self.pace.frugal,
        )
        cond = label_rows(held, index)
        with torch.no_grad():
            noise = held.noise[index].to(model.device)
            x = self.begun.begin(noise, self.begun.levels[0], cond)
        # A walk from noise may begin lower, where x is spread otherwise on some paths.
        spread = torch.hypot(table.alpha[0], table.sigma[0]) / self.begun.levels[0].spread
        x = x * spread.to(x)
        pictures = model.codec.decode(crossing(table, x, cond))
        apart = (pictures - held.pictures[index].to(model.device)).square()
        return (apart.mean(dim=(1, 2, 3)) + 1e-12).sqrt()

    def _save(
        self, optimizer: Any, average: torch.nn.Module, step: int, steps: int, before: float
    ) -> None:
        tensors = {
            "student": dict(self.student.state_dict()),
            "average": dict(average.state_dict()),
            "optimizer": checkpoint.optimizer_tensors(optimizer),
        }
        facts = {"step": step, "steps": steps, "before": before, "subject": self.subject}
        checkpoint.save(self.run, step, tensors, facts)

    def _resume_(self, optimizer: Any, average: torch.nn.Module) -> tuple[int, int, float | None]:
        found = checkpoint.newest(self.run)
        if found is None:
            return 0, self.pace.steps, None
        tensors, facts = checkpoint.load(found)
        require(
            facts["subject"] == self.subject,
            f"{self.run} holds a run of other settings; name another --out, or delete that folder.",
        )
        self.student.load_state_dict(tensors["student"])
        average.load_state_dict(tensors["average"])
        checkpoint.restore_optimizer(optimizer, tensors["optimizer"])
        return int(facts["step"]), int(facts["steps"]), float(facts["before"])
