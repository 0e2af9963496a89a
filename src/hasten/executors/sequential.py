"""One evaluation after another: the executor that everything else is compared with."""

from __future__ import annotations

import dataclasses

import torch

from hasten.core.executor import Executor, Registers, Watch, executors
from hasten.core.program import Program
from hasten.core.session import Session
from hasten.core.stepping import Answers, Pending, follow, stepping


@executors.add("sequential")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Sequential(Executor):
    """Row by row, forgetting each register after its last use; evaluations that do not read each
    other share a network call."""

    in_order = True

    def run(
        self,
        program: Program,
        registers: Registers,
        session: Session,
        watch: Watch | None = None,
    ) -> torch.Tensor:
        calls = 0

        def answer(pending: tuple[Pending, ...]) -> list[Answers]:
            nonlocal calls
            answers = session.answer(pending)
            if pending[0].ask.calls:
                if watch is not None:
                    watch(calls, answers[-1][0])
                calls += 1
            return answers

        return follow(stepping(program, registers), answer)
