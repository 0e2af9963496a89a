"""End each picture as soon as its x0 has settled."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from hasten.core.errors import require_number, require_whole
from hasten.core.executor import BatchedBackend, Executor, Watch, executors
from hasten.core.program import Program
from hasten.executors.stopping import answered


@executors.add("early-exit")
@dataclasses.dataclass(frozen=True, kw_only=True)
class EarlyExit(Executor):
    """Row by row, but a picture whose x0 moved by less than ``tolerance`` (root mean square, in the
    network's space) from one network call to the next is done: that x0 is its result, and it leaves
    the batch. The others go on as if it had never been there.

    ``least``: calls before a picture may end; ``below``: it ends at no level whose sigma / alpha is
    above that, because x0 also rests where nothing is to be seen yet. x0 is taken as the walk uses
    it, clipped where the plan clips. After each call the device is waited for once.
    """

    adaptive = True

    tolerance: float
    least: int = 2
    below: float = 1.0

    def __post_init__(self) -> None:
        require_number("executor option tolerance", self.tolerance, 1e-9, 1e3)
        require_whole("executor option least", self.least, 2, 10_000)
        require_number("executor option below", self.below, 1e-9, 1e9)

    def run(
        self, program: Program, x: Any, backend: BatchedBackend, watch: Watch | None = None
    ) -> Any:
        where = answered(program, self.part_name)
        values, latest, calls = {"x": x}, torch.zeros_like(x), 0
        whole, alive = backend, torch.arange(len(x), device=x.device)
        for number, (row, dead) in enumerate(zip(program.rows, program.frees, strict=True)):
            given = row.ask.answer(backend, *[values[name] for name in row.ask.reads()])
            values.update(zip(row.out, given, strict=True))
            for name in dead:
                del values[name]
            if number not in where:
                continue
            stay = self._moved(given[0], latest[alive])
            latest[alive] = given[0]
            if watch is not None:
                watch(calls, latest.clone())
            calls += 1
            if calls < self.least or where[number].ratio > self.below or len(stay) == len(alive):
                continue
            if len(stay) == 0:
                return latest
            alive = alive[stay]
            values = {name: value[stay] for name, value in values.items()}
            backend = whole.among(alive.tolist())
        latest[alive] = values[program.output]
        return latest

    def _moved(self, x0: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
        """The places of the pictures that have not settled; NaN never has."""
        apart = (x0 - before).flatten(1).square().mean(1).sqrt()
        return (~(apart < self.tolerance)).nonzero()[:, 0]
