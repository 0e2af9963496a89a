"""A process of its own that answers a Lab's questions, so that a killed trial costs one trial.

``python -m hasten.tuning.worker`` reads JSON lines from stdin: first how to load the model, then
questions; it writes one JSON line an answer, and ends when stdin does.
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
from typing import Any

import torch

from hasten.adapters.load import load
from hasten.core.codec import codecs
from hasten.core.errors import UserError
from hasten.core.model import Model
from hasten.core.prediction import predictions
from hasten.tuning.trials import Facts, Lab

PATIENCE = 120.0  # seconds a process may take to start and load its model
LEAVING = 10.0  # and to end once its output has


class Here:
    """Questions answered in this process: for a network that no folder holds."""

    isolated = False

    def __init__(self, lab: Lab) -> None:
        self._lab = lab

    def ask(self, question: Facts, limit: float) -> Facts:
        """The answer; {"refused": why} where there is none."""
        return _answered(self._lab, question)

    def close(self) -> None:
        pass


class Child:
    """Questions answered by a process of its own, started anew after it died."""

    isolated = True

    def __init__(self, lab: Lab) -> None:
        self._setting = _setting(lab)
        self._process: subprocess.Popen[str] | None = None
        self._lines: queue.Queue[str | None] = queue.Queue()

    def ask(self, question: Facts, limit: float) -> Facts:
        """The answer; {"refused": why} where there is none, {"died": how} where the process was
        killed over it or took longer than ``limit`` seconds."""
        if self._process is None:
            self._start()
        line = self._exchange(question, limit)
        if line:
            return json.loads(line)
        process, self._process = self._process, None
        assert process is not None
        with contextlib.suppress(subprocess.TimeoutExpired):
            if line is None:  # its output ended, so it is about to
                return {"died": f"its process was killed ({_ended(process.wait(LEAVING))})"}
        process.kill()
        process.wait()
        return {"died": f"took longer than {limit:.0f} s"}

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _start(self) -> None:
        source = str(Path(__file__).parents[2])
        known = os.environ.get("PYTHONPATH")
        env = {**os.environ, "PYTHONPATH": source + (os.pathsep + known if known else "")}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "hasten.tuning.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=env,
        )
        self._lines = queue.Queue()
        threading.Thread(target=_pump, args=(self._process, self._lines), daemon=True).start()
        line = self._exchange(self._setting, PATIENCE)
        if not line or json.loads(line) != {"ready": True}:
            self.close()
            why = f" ({json.loads(line).get('refused')})" if line else ""
            raise UserError(f"a process for trials could not be started{why}; see `hasten info`.")

    def _exchange(self, question: Facts, limit: float) -> str | None:
        """The line of the answer; "" where none came in time, None where none will come."""
        assert self._process is not None
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(question) + "\n")
            self._process.stdin.flush()
            return self._lines.get(timeout=max(limit, 0.01))
        except queue.Empty:
            return ""
        except OSError:
            return None


def _pump(process: subprocess.Popen[str], lines: queue.Queue[str | None]) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        lines.put(line)
    lines.put(None)


def _ended(status: int) -> str:
    if status >= 0:
        return f"exit status {status}"
    try:
        return signal.Signals(-status).name
    except ValueError:
        return f"signal {-status}"


def _setting(lab: Lab) -> Facts:
    """What another process needs to set up the same Lab."""
    model = lab.model
    names = ("seed", "data", "features")
    where = {"device": str(model.device), "dtype": str(model.dtype).removeprefix("torch.")}
    told = {"prompts": model.prompts} if model.prompts else _told(model)
    return {
        "load": {"source": str(model.folder), **where, **told},
        "name": model.name,
        "sha256": model.sha256,
        "threads": torch.get_num_threads(),
        "lab": {name: getattr(lab, name) for name in names},
        "folder": None if lab.folder is None else str(lab.folder),
    }


def _told(model: Model) -> Facts:
    """What its files may not say."""
    return {
        "schedule": model.schedule.config(),
        "prediction": predictions.text(model.prediction),
        "codec": codecs.text(model.codec),
        "shape": model.shape,
        "labels": model.labels,
        "null_label": model.null_label,
        "learned_variance": model.learned_variance,
    }


def _lab(setting: Facts) -> Lab:
    torch.set_num_threads(setting["threads"])
    model: Model = load(**setting["load"])
    if model.sha256 != setting["sha256"]:
        raise UserError(f"the weights of {setting['name']!r} changed on the disk; start again.")
    model = dataclasses.replace(model, name=setting["name"])
    folder = setting["folder"]
    return Lab(model=model, folder=None if folder is None else Path(folder), **setting["lab"])


def _answered(lab: Lab, question: Facts) -> Facts:
    began = time.monotonic()
    try:
        answer = lab.answer(question)
    except UserError as error:
        answer = {"refused": str(error)}
    except Exception as error:  # a trial may fail in any way, and costs one trial
        answer = {"refused": f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"}
    return {**answer, "seconds": round(time.monotonic() - began, 4)}


def _leave_with_parent(lines: Any, questions: queue.Queue[str]) -> None:
    for line in lines:
        questions.put(line)
    os._exit(0)  # whoever asked is gone: nobody wants the rest of this answer


def main() -> None:
    """Answer questions until stdin ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever a library prints is no answer
    questions: queue.Queue[str] = queue.Queue()
    reader = (sys.stdin, questions)
    threading.Thread(target=_leave_with_parent, args=reader, daemon=True).start()
    lab: Lab | None = None
    while True:
        question = json.loads(questions.get())
        if lab is None:
            try:
                lab = _lab(question)
                answer: Facts = {"ready": True}
            except UserError as error:
                answer = {"refused": str(error)}
        else:
            answer = _answered(lab, question)
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
