"""Walks out of functions that call where a walk would ask."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable
from typing import Any

import torch

from hasten.core.ask import Ask
from hasten.core.program import Walk

ASKED, ENDED, FAILED = "asked", "ended", "failed"

AskFunction = Callable[[Ask], torch.Tensor]
"""Asks a question and returns its answer."""


class _Abandoned(BaseException):
    """Ends a function whose walk nobody runs any more."""


def walk_of(run: Callable[[AskFunction], torch.Tensor], device: torch.device) -> Walk:
    """A walk from ``run(ask)``, a function that calls ``ask(question)`` for every answer: for the
    integrators of other packages, which call a function and cannot be turned inside out.

    It runs in a thread of its own that takes turns with the walk, in the same gradient mode and on
    the same stream of ``device``; questions are answered where the walk is run. The thread ends
    with the walk, also when the walk is abandoned or an answer raises.
    """
    questions: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
    answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
    grad, inference = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
    stream = torch.cuda.current_stream(device) if device.type == "cuda" else None

    def ask(question: Ask) -> torch.Tensor:
        questions.put((ASKED, question))
        answer = answers.get()
        if answer is _Abandoned:
            raise _Abandoned
        return answer

    def work() -> None:
        there = contextlib.nullcontext() if stream is None else torch.cuda.stream(stream)
        with torch.inference_mode(inference), torch.set_grad_enabled(grad), there:
            try:
                questions.put((ENDED, run(ask)))
            except BaseException as error:  # handed to the walk, which raises it
                questions.put((FAILED, error))

    thread = threading.Thread(target=work, name="hasten-walk", daemon=True)
    thread.start()
    waiting = False
    try:
        while True:
            kind, value = questions.get()
            waiting = kind == ASKED
            if kind == FAILED:
                raise value
            if kind == ENDED:
                return value
            answers.put((yield value))
            waiting = False
    finally:
        if waiting:
            answers.put(_Abandoned)
        thread.join()
