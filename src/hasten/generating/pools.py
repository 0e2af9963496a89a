"""Where shards are made: in this process, or in several others on this machine."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import torch

from hasten.core.errors import HastenError, UserError, ended_by
from hasten.core.files import JsonObject
from hasten.generating.job import Job
from hasten.generating.maker import Maker, Outcome, Progress, State

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class Pool(Protocol):
    """Makes shards; ``identity`` is of the job, as the model was found to have it."""

    @property
    def identity(self) -> JsonObject: ...

    def run(self, shards: Sequence[int], progress: Progress) -> Iterator[Outcome]:
        """What becomes of each shard, as it is known.

        Raises:
            HastenError: what other shards would meet as well.
        """
        ...

    def close(self) -> None:
        """End its processes."""
        ...


class InProcess:
    """Makes one shard after another in this process."""

    def __init__(self, job: Job, place: int = 0) -> None:
        self._before = torch.get_num_threads()
        torch.set_num_threads(job.threads)
        try:
            self._maker = Maker(job, place)
        except BaseException:
            self.close()
            raise

    @property
    def identity(self) -> JsonObject:
        return self._maker.identity

    def run(self, shards: Sequence[int], progress: Progress) -> Iterator[Outcome]:
        for shard in shards:
            yield self._maker.make(shard, progress)

    def close(self) -> None:
        torch.set_num_threads(self._before)


class Processes:
    """Makes shards in ``count`` processes of their own, each of which has loaded the model.

    A process that dies fails the shard that it was at; the others go on.
    """

    def __init__(self, job: Job, count: int, place: int = 0) -> None:
        self._said: queue.Queue[tuple[int, JsonObject | None]] = queue.Queue()
        self._workers: dict[int, subprocess.Popen[str]] = {}
        self._idle: deque[int] = deque()
        self._at: dict[int, int] = {}
        self._identity: JsonObject | None = None
        try:
            for number in range(count):
                self._start(job, number, place * count + number)
            while self._identity is None:
                self._hear(lambda *_: None)
        except BaseException:
            self.close()
            raise

    @property
    def identity(self) -> JsonObject:
        assert self._identity is not None
        return self._identity

    def run(self, shards: Sequence[int], progress: Progress) -> Iterator[Outcome]:
        todo = deque(shards)
        while todo or self._at:
            while todo and self._idle:
                number, shard = self._idle.popleft(), todo.popleft()
                self._at[number] = shard
                self._tell(number, json.dumps({"shard": shard}))
            outcome = self._hear(progress)
            if outcome is not None:
                yield outcome

    def close(self) -> None:
        for worker in self._workers.values():
            worker.kill()
        for worker in self._workers.values():
            worker.wait()
        self._workers = {}

    def _start(self, job: Job, number: int, place: int) -> None:
        source = str(Path(__file__).parents[2])
        inherited = os.environ.get("PYTHONPATH")
        path = source + (os.pathsep + inherited if inherited else "")
        quiet = None if os.environ.get("HASTEN_TRACEBACK") else subprocess.DEVNULL
        worker = subprocess.Popen(
            [sys.executable, "-m", "hasten.generating.worker", str(place)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=quiet,
            text=True,
            encoding="utf-8",
            env={**os.environ, "PYTHONPATH": path} | dict.fromkeys(THREADS, str(job.threads)),
        )
        self._workers[number] = worker
        threading.Thread(target=self._pump, args=(number, worker), daemon=True).start()
        self._tell(number, job.to_json())

    def _tell(self, number: int, line: str) -> None:
        stdin = self._workers[number].stdin
        assert stdin is not None
        try:
            stdin.write(line + "\n")
            stdin.flush()
        except OSError:
            pass  # it died, which its output says

    def _pump(self, number: int, worker: subprocess.Popen[str]) -> None:
        assert worker.stdout is not None
        for line in worker.stdout:
            self._said.put((number, json.loads(line)))
        self._said.put((number, None))

    def _hear(self, progress: Progress) -> Outcome | None:
        """Take in the next thing that a process says; the outcome of a shard, where it is one."""
        number, said = self._said.get()
        if said is None:
            return self._died(number)
        if "error" in said:
            kind = UserError if said["status"] == 2 else HastenError
            raise kind(said["error"])
        if "identity" in said:
            self._identity = self._identity or said["identity"]
            self._idle.append(number)
        elif "progress" in said:
            progress(said["shard"], said["progress"])
        else:
            self._idle.append(number)
            shard = self._at.pop(number)
            return Outcome(shard=shard, state=State(said["state"]), message=said["message"])
        return None

    def _died(self, number: int) -> Outcome | None:
        worker = self._workers.pop(number)
        ending = ended_by(worker.wait())
        shard = self._at.pop(number, None)
        if not self._workers:
            raise HastenError(f"a process for shards has ended ({ending}); start again.")
        if shard is None:
            self._idle = deque(each for each in self._idle if each != number)
            return None
        message = f"shard {shard}: its process has ended ({ending})"
        return Outcome(shard=shard, state=State.FAILED, message=message)
