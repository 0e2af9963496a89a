"""Where the tuner's measurements are made: in this process, or in one of their own, so that a trial
that kills its process costs one trial.

``python -m hasten.tuning.worker`` reads JSON lines from stdin: first how to load the model, then
requests; it writes one JSON line an outcome, and ends when stdin does.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Protocol, TextIO

import torch

from hasten.adapters.load import load
from hasten.core.codec import codecs
from hasten.core.errors import UserError, ended_by
from hasten.core.model import Model
from hasten.core.prediction import predictions
from hasten.tuning.requests import (
    AnswerT,
    Outcome,
    Request,
    outcome_from_json,
    outcome_to_json,
    request_from_json,
    request_to_json,
)
from hasten.tuning.serialization import Json
from hasten.tuning.trials import TrialExecutor

START_TIMEOUT_S = 120.0  # for a process to start and load its model
EXIT_TIMEOUT_S = 10.0  # for a process to end once its output has


class Backend(Protocol):
    """Where measurements are made; ``isolated`` where that is a process of their own."""

    @property
    def isolated(self) -> bool: ...

    def run(self, request: Request[AnswerT], timeout: float) -> Outcome[AnswerT]:
        """The outcome of ``request``, which is ended after ``timeout`` seconds where it can be."""
        ...

    def close(self) -> None:
        """End the process; the next request starts another."""
        ...


class InProcess:
    """Measures in this process: for a network that no folder holds."""

    isolated = False

    def __init__(self, executor: TrialExecutor) -> None:
        self._executor = executor

    def run(self, request: Request[AnswerT], timeout: float) -> Outcome[AnswerT]:
        """The outcome of ``request``; ``timeout`` cannot be kept."""
        return carry_out(self._executor, request)

    def close(self) -> None:
        """Nothing to end."""


class WorkerProcess:
    """Measures in a process of its own, started anew after it died."""

    isolated = True

    def __init__(self, executor: TrialExecutor) -> None:
        self._setup = _setup(executor)
        self._process: subprocess.Popen[str] | None = None
        self._lines: queue.Queue[str | None] = queue.Queue()

    @property
    def process_id(self) -> int | None:
        """Of the running process, if there is one."""
        return None if self._process is None else self._process.pid

    def run(self, request: Request[AnswerT], timeout: float) -> Outcome[AnswerT]:
        """The outcome of ``request``; a failure where the process died over it or took longer than
        ``timeout`` seconds."""
        if self._process is None:
            self.start()
        line = self._exchange(request_to_json(request), timeout)
        if line:
            return outcome_from_json(request, json.loads(line))
        process, self._process = self._process, None
        assert process is not None
        with contextlib.suppress(subprocess.TimeoutExpired):
            if line is None:  # its output ended, so it is about to
                ending = ended_by(process.wait(EXIT_TIMEOUT_S))
                return Outcome(failure=f"its process was killed ({ending})", killed=True)
        process.kill()
        process.wait()
        return Outcome(failure=f"took longer than {timeout:.0f} s", timed_out=True)

    def close(self) -> None:
        """End the process; the next request starts another."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def start(self) -> None:
        """Start the process and have it load the model.

        Raises:
            UserError: it could not be started.
        """
        source = str(Path(__file__).parents[2])
        inherited = os.environ.get("PYTHONPATH")
        path = source + (os.pathsep + inherited if inherited else "")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "hasten.tuning.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "PYTHONPATH": path},
        )
        self._lines = queue.Queue()
        threading.Thread(target=_pump, args=(self._process, self._lines), daemon=True).start()
        line = self._exchange(self._setup, START_TIMEOUT_S)
        failure = json.loads(line)["failure"] if line else "no answer"
        if failure:
            self.close()
            raise UserError(
                f"a process for trials could not be started ({failure}); see `hasten info`."
            )

    def _exchange(self, body: Json, timeout: float) -> str | None:
        """The line of the answer; "" where none came in time, None where none will come."""
        assert self._process is not None
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(body) + "\n")
            self._process.stdin.flush()
            return self._lines.get(timeout=max(timeout, 0.01))
        except queue.Empty:
            return ""
        except OSError:
            return None


def carry_out(executor: TrialExecutor, request: Request[AnswerT]) -> Outcome[AnswerT]:
    """The outcome of ``request`` and how long it took; an error becomes a failure, because a trial
    may fail in any way."""
    began = time.monotonic()
    answer, failure = None, ""
    try:
        answer = executor.answer(request)
    except UserError as error:
        failure = str(error)
    except Exception as error:
        failure = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    return Outcome(answer=answer, seconds=round(time.monotonic() - began, 4), failure=failure)


def _pump(process: subprocess.Popen[str], lines: queue.Queue[str | None]) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        lines.put(line)
    lines.put(None)


def _setup(executor: TrialExecutor) -> Json:
    """What another process needs to make the same TrialExecutor."""
    model = executor.model
    place = {"device": str(model.device), "dtype": str(model.dtype).removeprefix("torch.")}
    details = {"prompts": model.prompts} if model.prompts else _details(model)
    return {
        "load": {"source": str(model.folder), **place, **details},
        "name": model.name,
        "sha256": model.sha256,
        "threads": torch.get_num_threads(),
        "executor": {name: getattr(executor, name) for name in ("seed", "data", "features")},
        "folder": None if executor.folder is None else str(executor.folder),
    }


def _details(model: Model) -> Json:
    """What the files of the model may not say."""
    return {
        "schedule": model.schedule.config(),
        "prediction": predictions.text(model.prediction),
        "codec": codecs.text(model.codec),
        "shape": model.shape,
        "labels": model.labels,
        "null_label": model.null_label,
        "learned_variance": model.learned_variance,
    }


def _executor(setup: Json) -> TrialExecutor:
    torch.set_num_threads(setup["threads"])
    model: Model = load(**setup["load"])
    if model.sha256 != setup["sha256"]:
        raise UserError(f"the weights of {setup['name']!r} changed on the disk; start again.")
    model = dataclasses.replace(model, name=setup["name"])
    folder = None if setup["folder"] is None else Path(setup["folder"])
    return TrialExecutor(model=model, folder=folder, **setup["executor"])


def _answered(executor: TrialExecutor, body: Json) -> Json:
    """The outcome of the request in ``body``, as JSON."""
    try:
        request = request_from_json(body)
    except UserError as error:
        return outcome_to_json(Outcome(failure=str(error)))
    return outcome_to_json(carry_out(executor, request))


def _leave_with_parent(lines: TextIO, bodies: queue.Queue[str]) -> None:
    for line in lines:
        bodies.put(line)
    os._exit(0)  # the parent is gone: nobody wants the rest of this answer


def main() -> None:
    """Carry out requests until stdin ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever a library prints is no answer
    bodies: queue.Queue[str] = queue.Queue()
    reader = (sys.stdin, bodies)
    threading.Thread(target=_leave_with_parent, args=reader, daemon=True).start()
    executor: TrialExecutor | None = None
    while True:
        body = json.loads(bodies.get())
        if executor is None:
            try:
                executor = _executor(body)
                answer: Json = {"failure": ""}
            except UserError as error:
                answer = {"failure": str(error)}
        else:
            answer = _answered(executor, body)
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
