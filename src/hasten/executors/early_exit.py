"""End each picture as soon as its x0 has settled."""

from __future__ import annotations

import dataclasses

import torch

from hasten.core.errors import require_number, require_whole
from hasten.core.executor import Executor, Registers, Watch, executors
from hasten.core.program import Program
from hasten.core.session import Session
from hasten.core.stepping import stepping, sums
from hasten.executors.stopping import known_x0


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
    exact = False

    tolerance: float
    least: int = 2
    below: float = 1.0

    def __post_init__(self) -> None:
        require_number("executor option tolerance", self.tolerance, 1e-9, 1e3)
        require_whole("executor option least", self.least, 2, 10_000)
        require_number("executor option below", self.below, 1e-9, 1e9)

    def run(
        self,
        program: Program,
        registers: Registers,
        session: Session,
        watch: Watch | None = None,
    ) -> torch.Tensor:
        where = known_x0(program, self.part_name)
        latest, calls = torch.zeros_like(registers["x"]), 0
        alive = torch.arange(len(latest), device=latest.device)
        steps = stepping(program, registers, compute=sums, together=False)
        (pending,) = next(steps)
        while True:
            answers = session.answer((pending,))
            if pending.number in where:
                x0 = answers[0][0]
                stay = self._moved(x0, latest[alive])
                latest[alive] = x0
                if watch is not None:
                    watch(calls, latest.clone())
                calls += 1
                may_end = calls >= self.least and where[pending.number].ratio <= self.below
                if may_end and len(stay) == 0:
                    return latest
                if may_end and len(stay) < len(alive):
                    alive = alive[stay]
                    answers = [tuple(value[stay] for value in values) for values in answers]
                    for name, value in registers.items():
                        registers[name] = value[stay]
                    session = session.rows(stay.tolist())
            try:
                (pending,) = steps.send(answers)
            except StopIteration as stop:
                latest[alive] = stop.value
                return latest

    def _moved(self, x0: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
        """The places of the pictures that have not settled; NaN never has."""
        apart = (x0 - before).flatten(1).square().mean(1).sqrt()
        return (~(apart < self.tolerance)).nonzero()[:, 0]
