"""Fit the few numbers of a program to converged pictures: Adam through the program itself.

The loss is the ODE error: the root mean square of each picture's difference from where the model's
own solution leads from the same noise. The network is frozen; the numbers are an objective of the
training loop like any other, in float64 on the CPU.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import torch

from hasten.core.artifact import digest
from hasten.core.condition import as_condition
from hasten.core.errors import require_number, require_whole
from hasten.learning.programs.reference_pairs import ReferencePairs, label_rows
from hasten.learning.programs.solver_coefficients import Table
from hasten.learning.programs.student_program import DifferentiableRun
from hasten.measuring.ode_error import Reference
from hasten.sampling import Sampler
from hasten.training.budget import Deadline
from hasten.training.loop import Training
from hasten.training.objective import Batch
from hasten.training.recipe import Optimizer, Run

WARMUP = 20  # steps in which the rate rises
CHECKPOINT = 25  # steps
EMA_DECAY = 0.98


class Coefficients(Protocol):
    """A module whose parameters stand for one table or for several ``kinds``, fitted in turn."""

    @property
    def kinds(self) -> int: ...

    def __call__(self, kind: int) -> Table: ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class FitOptions:
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


class FitRun(Run):
    """What two sessions of a run must agree in, beside the optimizer.

    Attributes:
        what: what is fitted.
        base: the plan that it begins as.
        weights: sha256 of the model's weights.
        references: the options of the reference pairs.
    """

    channels_last: bool = False
    ema: float = EMA_DECAY
    what: dict[str, object]
    base: str
    weights: str
    references: dict[str, object]
    frugal: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class PairNumbers:
    """Rows (n,): the numbers of reference pairs, which the objective looks up."""

    pairs: Reference

    @property
    def labels(self) -> torch.Tensor | None:
        return None

    def __len__(self) -> int:
        return len(self.pairs.noise)

    def at(self, index: np.ndarray, key: tuple[int, ...], device: torch.device) -> torch.Tensor:
        return torch.from_numpy(index)


@dataclasses.dataclass(frozen=True, kw_only=True)
class OdeErrorLoss:
    """The mean ODE error of a step's pairs.

    Attributes:
        base: what the coefficients began as; its start and clip stay.
    """

    pairs: ReferencePairs
    base: Sampler
    frugal: bool = False

    def loss(self, net: Any, batch: Batch) -> torch.Tensor:
        table = net(batch.step % net.kinds)
        return self.each(table, self.pairs.train, batch.rows).mean()

    @torch.no_grad()
    def held_out(self, coefficients: Coefficients) -> float:
        """The ODE error on the pairs held out, the mean over all kinds of tables."""
        pairs = self.pairs.check
        parts = torch.arange(len(pairs.noise)).split(64)
        errors = [
            self.each(coefficients(kind), pairs, part)
            for kind in range(coefficients.kinds)
            for part in parts
        ]
        return float(torch.cat(errors).mean())

    def each(self, table: Table, pairs: Reference, index: torch.Tensor) -> torch.Tensor:
        """(n,): the root mean square difference of each picture of ``index``."""
        model = self.pairs.model
        run = DifferentiableRun(
            model=model,
            guidance=self.pairs.options.guidance,
            clip=self.base.plan.clip,
            frugal=self.frugal,
        )
        labels = label_rows(pairs, index)
        with torch.no_grad():
            noise = pairs.noise[index].to(model.device)
            x = self.base.begin(noise, self.base.levels[0], as_condition(labels, len(noise)))
        # From noise it may begin at a lower level, where x has another spread on some schedules.
        spread = torch.hypot(table.alpha[0], table.sigma[0]) / self.base.levels[0].spread
        pictures = model.codec.decode(run(table, x * spread.to(x), labels))
        square = (pictures - pairs.pictures[index].to(model.device)).square()
        return (square.flatten(1).mean(1) + 1e-12).sqrt()


def fit_(
    coefficients: torch.nn.Module,
    loss: OdeErrorLoss,
    options: FitOptions,
    run: Path,
    *,
    what: Mapping[str, object],
    deadline: Deadline | None = None,
    quiet: bool = True,
) -> dict[str, object]:
    """Fit ``coefficients`` (a module of the protocol :class:`Coefficients`) in place, or go on with
    the run in the folder ``run``; returns the facts of the run.

    Raises:
        UserError: the folder holds a run of something else.
        NonFiniteError: the loss is not finite; the last checkpoint stays.
    """
    pairs = loss.pairs
    numbers = cast(Coefficients, coefficients)
    recipe = FitRun(
        name="program",
        optimizer=Optimizer(
            rate=options.rate, batch=options.batch, warmup=WARMUP * options.batch, decay="linear"
        ),
        pictures=options.steps * options.batch,
        seed=pairs.options.seed,
        checkpoint_every=CHECKPOINT * options.batch,
        what=dict(what),
        base=str(loss.base.plan),
        weights=digest(pairs.model),
        references=dataclasses.asdict(pairs.options),
        frugal=options.frugal,
    )
    before = loss.held_out(numbers)
    training = Training(
        recipe=recipe,
        objective=loss,
        net=coefficients,
        rows=PairNumbers(pairs=pairs.train),
        run=run,
        deadline=deadline,
        quiet=quiet,
        local=True,
    )
    training.fit_().put_(coefficients)
    n = len(pairs.check.noise)
    return {
        "teacher": str(pairs.options.plan),
        "guidance": pairs.options.guidance,
        "pairs": pairs.options.pairs,
        "steps": training.step,
        "batch": options.batch,
        "rate": options.rate,
        "ode_error": {"before": before, "after": loss.held_out(numbers), "n": n},
    }
