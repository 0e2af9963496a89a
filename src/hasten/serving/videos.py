"""Videos as jobs: made by a model of clips, or edited from a clip that came with the request."""

from __future__ import annotations

import contextlib
import dataclasses
import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from hasten.core.errors import HastenError, UserError
from hasten.core.files import JsonObject
from hasten.core.plan import Plan
from hasten.editing.clip import ClipEdit, ClipEditor
from hasten.editing.stream import Streaming
from hasten.media.reading import open_clip
from hasten.media.writing import ClipWriter
from hasten.serving.answers import Answering, require_affordable
from hasten.serving.batcher import Job, Late
from hasten.serving.bodies import VideoForm
from hasten.serving.errors import SERVER, Refusal, refusal_of
from hasten.serving.served import Served, Wanted, editor_of

MOST_JOBS = 16  # kept, the oldest that are done go first
MOST_WAITING = 4
MOST_FRAMES = 600  # of a clip that is edited
MOST_SECONDS = 3600.0  # that a video may take
POLL = 0.2  # seconds between looks at how far it is
RATE = 8  # frames a second of a clip that a model makes, as its authors' pipelines write it


class Stopped(HastenError):
    """The job was deleted while it ran."""


@dataclasses.dataclass(eq=False, kw_only=True)
class VideoJob:
    """One video. ``status``: queued, in_progress, completed or failed."""

    identity: str
    model: str
    prompt: str
    size: str
    folder: Path
    status: str = "queued"
    progress: int = 0
    error: Refusal | None = None
    created: int = dataclasses.field(default_factory=lambda: int(time.time()))
    completed: int | None = None
    stopped: bool = False

    @property
    def out(self) -> Path:
        return self.folder / "video.mp4"

    def told(self) -> JsonObject:
        error = None
        if self.error is not None:
            error = {"code": self.error.code or "failed", "message": self.error.message}
        return {
            "id": self.identity,
            "object": "video",
            "model": self.model,
            "prompt": self.prompt,
            "status": self.status,
            "progress": self.progress,
            "created_at": self.created,
            "completed_at": self.completed,
            "expires_at": None,
            "seconds": "",
            "size": self.size,
            "remixed_from_video_id": None,
            "error": error,
        }

    def finished(self) -> Path:
        """The file.

        Raises:
            Refusal: it is not done.
        """
        if self.status != "completed":
            raise Refusal(
                409,
                f"the video is {self.status}; ask again when it is completed.",
                code="not_ready",
            )
        return self.out


class Videos:
    """The jobs of a server, one at a time; their network calls take turns with pictures."""

    def __init__(self, answering: Answering) -> None:
        self._answering, self._lock = answering, threading.Lock()
        self._jobs: dict[str, VideoJob] = {}
        self._pool = ThreadPoolExecutor(1, "hasten-videos")
        self._folder = Path(tempfile.mkdtemp(prefix="hasten-videos-"))

    def create(self, form: VideoForm, source: bytes | None) -> JsonObject:
        """A job, queued.

        Raises:
            Refusal: too many wait, a field does not fit, or there is no room for the clip.
        """
        each = self._answering.served(form.model)
        plan = self._checked(form, each, source is not None)
        job = self._queued(form, each)
        make = self._generated(form, each, plan)
        if source is not None:
            given = job.folder / "source"
            try:
                given.write_bytes(source)
            except OSError as error:
                self.delete(job.identity)
                raise Refusal(
                    503,
                    f"the clip cannot be stored ({error.strerror}); try again later.",
                    code="no_room",
                    kind=SERVER,
                    retry_after=60,
                ) from error
            make = self._edited(form, each, plan, given)
        self._pool.submit(_worked, job, make)
        return job.told()

    def _checked(self, form: VideoForm, each: Served, edits: bool) -> Plan:
        """The plan of a request whose fields fit."""
        each.require_prompt(form.prompt)
        name = form.plan or each.default
        *_, height, width = each.model.picture_shape
        own, how = f"{width}x{height}", "makes clips, and edits none; leave input_reference out"
        if not each.makes_clips:
            how = "makes pictures; send a clip as input_reference, which it edits"
        wrong = {
            "plan": name not in each.plans and f"{name!r} is none of {', '.join(each.plans)}.",
            "input_reference": each.makes_clips == edits and f"{each.name} {how}.",
            "size": form.size not in (None, "auto", own)
            and f"{each.name} makes {own}, and edits in the clip's own size; leave size out.",
            "seconds": form.seconds is not None
            and "a clip is as long as the model makes it, or as the one it is edited from; leave "
            "seconds out.",
        }
        for field, why in wrong.items():
            if why:
                raise Refusal(400, f"{field}: {why}", param=field, code="invalid_value")
        plan = each.plans[name]
        if edits:
            each.require_prompt(form.source_prompt or form.prompt)
            editor = editor_of(each.sampler(plan), form.method, False)
            require_affordable(editor.program.evaluations)
        return plan

    def _queued(self, form: VideoForm, each: Served) -> VideoJob:
        with self._lock:
            waiting = sum(job.status in ("queued", "in_progress") for job in self._jobs.values())
            if waiting >= MOST_WAITING:
                raise Refusal(
                    429, f"{waiting} videos wait already.", code="queue_full", retry_after=10
                )
            done = [job for job in self._jobs.values() if job.status in ("completed", "failed")]
            for old in done[: max(0, len(self._jobs) + 1 - MOST_JOBS)]:
                self._removed(old)
            identity = f"video_{secrets.token_hex(12)}"
            folder = self._folder / identity
            folder.mkdir()
            *_, height, width = each.model.picture_shape
            self._jobs[identity] = VideoJob(
                identity=identity,
                model=each.name,
                prompt=form.prompt,
                size=f"{width}x{height}",
                folder=folder,
            )
            return self._jobs[identity]

    def _generated(self, form: VideoForm, each: Served, plan: Plan) -> Callable[[VideoJob], object]:
        answering = self._answering

        def make(job: VideoJob) -> None:
            sampler = each.sampler(plan)
            assert sampler.program is not None
            seed = secrets.randbelow(2**31) if form.seed is None else form.seed
            wanted = Wanted(sampler=sampler, prompts=(form.prompt,), seed=seed)
            with answering.batcher.turns:
                lane = each.lane(plan)
            asked = Job(
                lane=lane,
                order=wanted,
                rows=1,
                evaluations=sampler.program.evaluations,
                deadline=MOST_SECONDS,
            )
            answering.batcher.submit(asked)
            (clip,) = _waited(job, asked)
            with ClipWriter(job.out, clip.shape[-1], clip.shape[-2], RATE) as writer:
                for frame in clip:
                    writer.write(frame.expand(3, -1, -1))

        return make

    def _edited(
        self, form: VideoForm, each: Served, plan: Plan, given: Path
    ) -> Callable[[VideoJob], object]:
        answering = self._answering

        def make(job: VideoJob) -> None:
            with open_clip(given) as reader:
                frames = reader.facts.frames
            if frames is not None and frames > MOST_FRAMES:
                raise Refusal(
                    400,
                    f"input_reference: {frames} frames; it takes up to {MOST_FRAMES}.",
                    param="input_reference",
                )

            begun = time.monotonic()

            def told(edit: ClipEdit) -> None:
                if edit.frames > MOST_FRAMES:
                    raise UserError(f"input_reference has more than {MOST_FRAMES} frames.")
                if time.monotonic() - begun > MOST_SECONDS:
                    raise Late(f"the clip took more than {MOST_SECONDS:g} s; send a shorter one.")
                job.progress = min(99, 100 * edit.frames // (frames or MOST_FRAMES))

            @contextlib.contextmanager
            def turn() -> Iterator[None]:
                if job.stopped:
                    raise Stopped("the video was deleted.")
                with answering.batcher.turns:
                    yield

            with turn():
                rows = each.lane(plan).rows
                editor = ClipEditor.of(
                    each.model,
                    each.asked(form.prompt),
                    source_prompt=each.asked(form.source_prompt) if form.source_prompt else None,
                    method=form.method,
                    plan=plan,
                    seed=form.seed or 0,
                )
            editor = dataclasses.replace(editor, turn=turn)
            editor(given, job.out, settings=Streaming(depth=rows), progress=told)

        return make

    def listed(self) -> list[JsonObject]:
        return [job.told() for job in reversed(self._jobs.values())]

    def job(self, identity: str) -> VideoJob:
        """The job of this name.

        Raises:
            Refusal: there is none.
        """
        if identity not in self._jobs:
            raise Refusal(404, "there is no such video.", code="not_found")
        return self._jobs[identity]

    def delete(self, identity: str) -> JsonObject:
        """Stop a job, or drop what it made."""
        job = self.job(identity)
        with self._lock:
            self._removed(job)
        return {"id": identity, "object": "video.deleted", "deleted": True}

    def _removed(self, job: VideoJob) -> None:
        job.stopped = True
        self._jobs.pop(job.identity, None)
        shutil.rmtree(job.folder, ignore_errors=True)

    def close(self) -> None:
        """Stop what runs, and drop all files."""
        for job in list(self._jobs.values()):
            job.stopped = True
        self._pool.shutdown(wait=False, cancel_futures=True)
        shutil.rmtree(self._folder, ignore_errors=True)


def _waited(job: VideoJob, asked: Job) -> torch.Tensor:
    """The pictures of ``asked``, while ``job`` tells how far it is."""
    while True:
        try:
            return asked.pictures.result(POLL)
        except TimeoutError:
            if asked.pictures.done():  # it was late
                raise
        job.progress = min(99, 100 * asked.crossed // asked.evaluations)
        if job.stopped:
            asked.pictures.cancel()
            raise Stopped("the video was deleted.")


def _worked(job: VideoJob, make: Callable[[VideoJob], object]) -> None:
    if job.stopped:
        return
    job.status = "in_progress"
    try:
        make(job)
    except Exception as error:
        with contextlib.suppress(OSError):
            job.out.unlink(missing_ok=True)
        job.error, job.status = refusal_of(error), "failed"
        job.error.message = job.error.message.replace(str(job.folder / "source"), "input_reference")
        return
    job.progress, job.completed, job.status = 100, int(time.time()), "completed"
