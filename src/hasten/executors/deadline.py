"""Return what there is when the time is over."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import torch

from hasten.core.errors import require_number
from hasten.core.executor import BatchedBackend, Executor, Watch, executors
from hasten.core.program import Program
from hasten.executors.stopping import answered


@executors.add("deadline")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Deadline(Executor):
    """Row by row; the network is called once, and again only while fewer than ``ms`` milliseconds
    have passed for the batch since the walk began (the start comes before). The result is the
    latest x0 then, as the walk uses it. A call that has begun is finished, so the time is exceeded
    by one call at most; the device is waited for after each, since its clock is what counts.
    """

    adaptive = True
    in_order = True

    ms: float

    def __post_init__(self) -> None:
        require_number("executor option ms", self.ms, 0.0, 1e9)

    def run(
        self, program: Program, x: Any, backend: BatchedBackend, watch: Watch | None = None
    ) -> Any:
        began, where = time.monotonic(), answered(program, self.part_name)
        last, values, calls = max(where), {"x": x}, 0
        for number, (row, dead) in enumerate(zip(program.rows, program.frees, strict=True)):
            given = row.ask.answer(backend, *[values[name] for name in row.ask.reads()])
            values.update(zip(row.out, given, strict=True))
            for name in dead:
                del values[name]
            if number not in where:
                continue
            if watch is not None:
                watch(calls, given[0])
            calls += 1
            _wait(given[0])
            if number < last and (time.monotonic() - began) * 1e3 >= self.ms:
                return given[0]
        return values[program.output]


def _wait(value: torch.Tensor) -> None:
    """Until the device has computed ``value``."""
    if value.device.type != "cpu":
        value.flatten()[:1].cpu()
