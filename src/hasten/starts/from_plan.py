"""Start from what another, cheaper plan of the same model makes."""

from __future__ import annotations

import dataclasses

from hasten.core.errors import require
from hasten.core.model import Model
from hasten.core.noise_schedule import NoiseSchedule
from hasten.core.plan import Plan
from hasten.core.start import Begin, LatentsOf, starts
from hasten.starts.early import Early, noised, second


@starts.add("plan")
@dataclasses.dataclass(frozen=True, kw_only=True)
class FromPlan(Early):
    """``plan`` (its text, or a file) makes x0 of the picture's noise, which is noised again at
    ``ratio`` (2205.12524, algorithm 2). Its evaluations count. Engine and dtype are those of the
    plan around it."""

    plan: str

    def __post_init__(self) -> None:
        super().__post_init__()
        require(isinstance(self.plan, str), f"start option plan is {self.plan!r}; it takes text.")
        inner = Plan.read(self.plan)
        for name in ("engine", "dtype"):
            require(
                name not in inner.chosen(),
                f"start option plan sets {name}, but it runs with that of the plan around it; drop "
                f"{name} there.",
            )
        require(
            all(lever.cut is not None for lever in inner.parts.levers),
            f"start option plan has the levers {list(inner.levers)}, but it runs the network of "
            "the plan around it; a feature cache is the only lever that it may have.",
        )
        require(
            inner.parts.solver.traceable and not inner.parts.executor.adaptive,
            f"start option plan is {str(inner)!r}, whose number of evaluations is not known "
            "beforehand; use a solver of fixed steps and no executor.",
        )
        require(
            not inner.stochastic,
            f"start option plan draws noise on the way ({inner.solver}); use a solver that does "
            "not, such as 'dpmpp(order=2)'.",
        )
        object.__setattr__(self, "plan", str(inner))  # one text for one choice

    def evaluations(self, schedule: NoiseSchedule) -> int | None:
        parts = Plan.read(self.plan).parts
        before = parts.start.evaluations(schedule)
        return None if before is None else before + parts.trace(schedule).evaluations

    def weights_mb(self) -> float:
        return Plan.read(self.plan).parts.start.weights_mb()

    def prepare(self, model: Model, other: LatentsOf) -> Begin:
        made = other(Plan.read(self.plan))
        return lambda noise, level, condition: noised(made(noise, condition), second(noise), level)
