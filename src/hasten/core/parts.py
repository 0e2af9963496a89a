"""The parts that a plan's text names, parsed once."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any

from hasten.core.engine import Engine, engines
from hasten.core.errors import UserError
from hasten.core.executor import Executor, executors
from hasten.core.files import JsonObject
from hasten.core.grid import Grid, grids
from hasten.core.learned_program import FIELD, LearnedProgram, Replayed
from hasten.core.level import Level
from hasten.core.lever import Lever, check_solver, check_traits, levers
from hasten.core.noise_schedule import NoiseSchedule
from hasten.core.program import Program
from hasten.core.registry import Registry
from hasten.core.solver import Clipped, Solver, solvers, trace
from hasten.core.start import Start, starts

REGISTRIES: dict[str, Registry[Any]] = {
    "solver": solvers,
    "grid": grids,
    "executor": executors,
    "start": starts,
    "engine": engines,
}
DECIDED = ("solver", "grid", "steps", "clip")  # what a learned program or a student decides
DEFAULTS: Mapping[str, str | int] = {
    "solver": "dpmpp(order=2)",
    "grid": "log-snr",
    "steps": 10,
    "start": "noise",
}


def parsed_levers(texts: tuple[str, ...]) -> tuple[Lever, ...]:
    """The levers that ``texts`` name, in the order in which they are applied."""
    parts = [levers.parse(text) for text in texts]
    return tuple(sorted(parts, key=lambda lever: (lever.stage, lever.part_name)))


@dataclasses.dataclass(frozen=True)
class Parts:
    """What a plan runs, whatever the model.

    Attributes:
        solver: clipped where the plan says so; a learned program replays itself.
        grid, steps: None for a learned program.
        start, executor, engine, levers: as the plan names them.
        learned: the learned program that the plan names.
    """

    solver: Solver
    grid: Grid | None
    steps: int | None
    start: Start
    executor: Executor
    engine: Engine
    levers: tuple[Lever, ...]
    learned: LearnedProgram | None = None
    start_text: str = "noise"

    @staticmethod
    def of(fields: JsonObject) -> Parts:
        """The parts that a plan's ``fields`` name; reads the files of what decides for others.

        Raises:
            UserError: a part that is unknown, a file that cannot be read, parts that exclude each
                other.
        """
        chosen = parsed_levers(tuple(fields["levers"]))
        executor = executors.parse(fields["executor"])
        engine = engines.parse(fields["engine"])
        check_traits(chosen, executor, engine)
        learned, grid, steps = None, None, None
        start = fields["start"] or decided_by(chosen)["start"]
        if fields["program"] is not None:
            learned = LearnedProgram.read(fields["program"])
            solver: Solver = Replayed(program=learned.program)
        else:
            decided = fields if fields["solver"] is not None else decided_by(chosen)
            solver, grid = solvers.parse(decided["solver"]), grids.parse(decided["grid"])
            steps = int(decided["steps"])
            if decided.get("clip") is not None:
                solver = Clipped(solver=solver, bound=decided["clip"])
        check_solver(chosen, solver)
        return Parts(
            solver=solver,
            grid=grid,
            steps=steps,
            start=starts.parse(start),
            executor=executor,
            engine=engine,
            levers=chosen,
            learned=learned,
            start_text=starts.canonical(start),
        )

    @property
    def unclipped(self) -> Solver:
        """The solver without the clipping of x0."""
        return self.solver.solver if isinstance(self.solver, Clipped) else self.solver

    @property
    def stochastic(self) -> bool:
        """Whether noise is drawn on the way."""
        return self.solver.draws_noise()

    def levels(self, schedule: NoiseSchedule) -> tuple[Level, ...]:
        """The levels that are visited on ``schedule``, noisy to clean."""
        shorter = self.start.shortened(schedule)
        if self.learned is not None:
            begin = self.learned.program.start
            first = shorter.at(shorter.noisy)
            _require_start(begin, first, self.learned.start, self.start_text)
            return begin, schedule.at(schedule.clean)
        assert self.grid is not None
        assert self.steps is not None
        return self.grid.levels(shorter, self.steps)

    def trace(self, schedule: NoiseSchedule) -> Program:
        """The Program on ``schedule``, with the variants that levers marked."""
        program = trace(self.solver, self.levels(schedule))
        return functools.reduce(lambda marked, lever: lever.mark(marked), self.levers, program)


def decided_by(chosen: tuple[Lever, ...]) -> JsonObject:
    """Solver, grid, steps, clip and start as the levers decide them."""
    fields: JsonObject = {**DEFAULTS, "clip": None}
    for lever in chosen:
        if lever.decides:
            fields |= lever.fields()
    return fields


def _require_start(begin: Level, first: Level, learned: str, start: str) -> None:
    kinds = [text.partition("(")[0] for text in (learned, start)]
    if kinds[0] != kinds[1]:
        raise UserError(
            f"{FIELD} was learned for start {learned!r}, but start is {start!r}; set start to it."
        )
    same = math.isclose(begin.ratio, first.ratio, rel_tol=1e-4)
    if not (same or (start == "noise" and begin.ratio < first.ratio)):
        raise UserError(
            f"{FIELD} begins at sigma / alpha = {begin.ratio:g}, but the run at {first.ratio:g}; "
            "use the model's noise schedule and the start it was learned with."
        )
