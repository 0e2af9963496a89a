"""Continuous batching: requests join and leave between two network calls.

One network call moves the runs of several requests by one evaluation each, at their own noise
levels, guidance and programs. Who is in the next call is decided anew before each. A request is due
at :data:`PATIENCE` times what it would take alone after it came, and the one that is due first goes
first. So a short request overtakes a long one, and a long one is never overtaken for ever.
"""

from __future__ import annotations

import contextlib
import dataclasses
import threading
import time
from collections.abc import Callable, Hashable, Iterable
from concurrent.futures import Future

import torch

from hasten.core.engine import Engine, beside
from hasten.core.errors import HastenError
from hasten.core.run import Run, advance
from hasten.serving.turns import Turns

PATIENCE = 3.0
SMOOTHING = 0.2  # weight of the last evaluation in the running average of its time


class Busy(HastenError):
    """As many requests wait as may; ``retry_after`` seconds until there is room, about."""

    def __init__(self, waiting: int, retry_after: float) -> None:
        super().__init__(
            f"{waiting} requests wait already, and no more may; try again in {retry_after:.0f} s."
        )
        self.retry_after = retry_after


class Late(HastenError):
    """A request was not done by its deadline."""


class Closing(HastenError):
    """The server is shutting down."""


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Lane:
    """Work that can share network calls: runs of one denoiser, decoded by one codec.

    Attributes:
        key: of the prepared network.
        rows: of one network call, at most: the largest batch that is useful here.
        begin: the runs of several jobs, from what each brought; they may share what comes before
            the network, such as the text encoder.
        decode: latents (n, ...) to pictures in [0, 1].
    """

    key: Hashable
    engine: Engine
    rows: int
    begin: Callable[[list[object]], list[Run]]
    decode: Callable[[torch.Tensor], torch.Tensor]


@dataclasses.dataclass(eq=False, kw_only=True)
class Job:
    """A request's pictures, on their way.

    Attributes:
        order: what its lane begins the run with.
        rows: pictures; evaluations: network evaluations a picture.
        deadline: seconds from its coming to when it is given up.
        previews: the evaluations, from 1, at or after which ``preview`` is called with the pictures
            (rows, c, h, w) so far.
        pictures: the result, on the CPU. Cancelling it gives the job up before the next evaluation.
        shared: rows of the largest network call that it was part of.
    """

    lane: Lane
    order: object
    rows: int
    evaluations: int
    deadline: float
    previews: tuple[int, ...] = ()
    preview: Callable[[torch.Tensor], object] = lambda pictures: None
    pictures: Future[torch.Tensor] = dataclasses.field(default_factory=Future)
    shared: int = 0
    due: float = 0.0
    begun: float = 0.0
    crossed: int = 0
    shows: bool = False
    run: Run | None = None

    def fail(self, error: BaseException) -> None:
        with contextlib.suppress(Exception):  # cancelled meanwhile
            self.pictures.set_exception(error)


class Batcher:
    """Runs jobs in a thread of its own.

    Args:
        queue: jobs that may be under way or wait, at most.
        watch: called after each network call with its rows and seconds.

    Attributes:
        turns: taken around each network call, for others that use the same networks.
    """

    def __init__(
        self, *, queue: int = 16, watch: Callable[[int, float], object] = lambda rows, seconds: None
    ) -> None:
        self.queue, self._watch, self.turns = queue, watch, Turns()
        self._jobs: list[Job] = []
        self._changed = threading.Condition()
        self._closing = False
        self._seconds: dict[Hashable, float] = {}  # of an evaluation of one row, by lane
        self._thread = threading.Thread(target=self._loop, name="hasten-batcher", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Jobs that are not done."""
        return len(self._jobs)

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def submit(self, job: Job) -> Job:
        """Take ``job``.

        Raises:
            Busy: too many wait.
            Closing: the batcher was closed.
        """
        with self._changed:
            if self._closing:
                raise Closing("the server is shutting down; try again later.")
            if len(self._jobs) >= self.queue:
                raise Busy(len(self._jobs), self._seconds_left())
            job.begun = time.monotonic()
            job.due = job.begun + PATIENCE * self._alone(job)
            self._jobs.append(job)
            self._changed.notify()
        return job

    def close(self, seconds: float = 0.0) -> None:
        """Take no more jobs, and stop when those under way are done, after ``seconds`` at most."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(seconds)
        with self._changed:
            for job in self._jobs:
                job.fail(Closing("the server is shutting down; try again later."))
            self._jobs = []

    def _alone(self, job: Job) -> float:
        """Seconds that a job takes by itself, about."""
        return self._seconds.get(job.lane.key, 0.1) * job.rows * job.evaluations

    def _seconds_left(self) -> float:
        """Until the jobs that wait are done, about."""
        left = (
            self._seconds.get(job.lane.key, 0.1) * job.rows * (job.evaluations - job.crossed)
            for job in self._jobs
        )
        return max(1.0, sum(left))

    @torch.inference_mode()
    def _loop(self) -> None:
        while True:
            with self._changed:
                while not self._jobs and not self._closing:
                    self._changed.wait()
                if not self._jobs:
                    return
                jobs = self._live()
            if jobs:
                self._step(_chosen(jobs))

    def _live(self) -> list[Job]:
        """The jobs that are still wanted, and in time; the others leave."""
        now = time.monotonic()
        for job in self._jobs:
            if now > job.begun + job.deadline and not job.pictures.done():
                job.fail(
                    Late(
                        f"not done after {job.deadline:g} s, with {job.crossed} of "
                        f"{job.evaluations} evaluations; ask for fewer steps, or try again later."
                    )
                )
        self._jobs = [job for job in self._jobs if not job.pictures.done()]
        return list(self._jobs)

    def _step(self, jobs: list[Job]) -> None:
        """One evaluation for ``jobs`` of a lane."""
        with self.turns:
            for stage in (self._begin, self._advance, self._finish):
                _together([job for job in jobs if not job.pictures.done()], stage)

    def _begin(self, jobs: list[Job]) -> None:
        new = [job for job in jobs if job.run is None]
        if new:
            runs = new[0].lane.begin([job.order for job in new])
            for job, run in zip(new, runs, strict=True):
                job.run = run

    def _advance(self, jobs: list[Job]) -> None:
        started, rows = time.perf_counter(), sum(job.rows for job in jobs)
        runs = [job.run for job in jobs if job.run is not None]
        asked = [len(run.pending) for run in runs]
        with beside(jobs[0].lane.engine):
            advance(runs)
        seconds = time.perf_counter() - started
        for job, count in zip(jobs, asked, strict=True):
            before, job.crossed = job.crossed, job.crossed + count
            job.shows = any(before < mark <= job.crossed for mark in job.previews)
            job.shared = max(job.shared, rows)
        key, mine = jobs[0].lane.key, seconds / rows
        before = self._seconds.get(key, mine)
        self._seconds[key] = before + SMOOTHING * (mine - before)
        self._watch(rows, seconds)

    def _finish(self, jobs: list[Job]) -> None:
        """Decode what is done, and what is shown on the way."""
        lane = jobs[0].lane
        latents: list[tuple[Job, torch.Tensor, bool]] = []
        for job in jobs:
            if job.run is None:
                continue
            if job.run.done:
                try:
                    latents.append((job, job.run.result(), True))
                except HastenError as error:
                    job.fail(error)
            elif job.shows:
                latents.append((job, job.run.x0, False))
        if not latents:
            return
        pictures = lane.decode(torch.cat([some for _, some, _ in latents])).cpu()
        parts = pictures.split([len(some) for _, some, _ in latents])
        for (job, _, done), part in zip(latents, parts, strict=True):
            if not done:
                job.preview(part)
            elif not job.pictures.done():
                with contextlib.suppress(Exception):  # cancelled meanwhile
                    job.pictures.set_result(part)


def _together(jobs: list[Job], stage: Callable[[list[Job]], object]) -> None:
    """``stage`` of all ``jobs`` at once; where that fails, of each alone, so that one request
    cannot fail another."""
    if not jobs:
        return
    try:
        stage(jobs)
    except Exception as error:
        if len(jobs) == 1:
            jobs[0].fail(error)
            return
        for job in jobs:
            _together([job], stage)


def _chosen(jobs: Iterable[Job]) -> list[Job]:
    """The jobs of the next network call: the most urgent one, and those of its lane that fit beside
    it, the most urgent first."""
    first, *others = sorted(jobs, key=lambda job: job.due)
    chosen, rows = [first], first.rows
    for job in others:
        if job.lane is first.lane and rows + job.rows <= first.lane.rows:
            chosen.append(job)
            rows += job.rows
    return chosen
