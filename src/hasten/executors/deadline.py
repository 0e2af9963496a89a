"""Return what there is when the time is over."""

from __future__ import annotations

import dataclasses
import time

import torch

from hasten.core.errors import require_number
from hasten.core.executor import Executor, Registers, Watch, executors
from hasten.core.program import Program
from hasten.core.session import Session
from hasten.core.stepping import stepping, sums
from hasten.executors.stopping import known_x0


@executors.add("deadline")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Deadline(Executor):
    """Row by row; the network is called once, and again only while fewer than ``ms`` milliseconds
    have passed for the batch since the run began (the start comes before). The result is the
    latest x0 then, as the solver uses it. A call that has begun is finished, so the time is
    exceeded by one call at most; the device is waited for after each, since its clock is what
    counts.
    """

    adaptive = True
    exact = False
    in_order = True

    ms: float

    def __post_init__(self) -> None:
        require_number("executor option ms", self.ms, 0.0, 1e9)

    def run(
        self,
        program: Program,
        registers: Registers,
        session: Session,
        watch: Watch | None = None,
    ) -> torch.Tensor:
        began, where = time.monotonic(), known_x0(program, self.part_name)
        last, calls = max(where), 0
        steps = stepping(program, registers, compute=sums)
        pending = next(steps)
        while True:
            answers, latest = session.answer(pending), None
            if pending[-1].number in where:
                latest = answers[-1][0]
                if watch is not None:
                    watch(calls, latest)
                calls += 1
                _wait(latest)
                if pending[-1].number < last and (time.monotonic() - began) * 1e3 >= self.ms:
                    return latest
            try:
                pending = steps.send(answers)
            except StopIteration as stop:
                return stop.value


def _wait(value: torch.Tensor) -> None:
    """Until the device has computed ``value``."""
    if value.device.type != "cpu":
        value.flatten()[:1].cpu()
