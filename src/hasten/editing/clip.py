"""A clip or a camera edited frame by frame, in constant memory, with its sound kept."""

from __future__ import annotations

import contextlib
import dataclasses
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import torch
import torch.nn.functional as F

from hasten.core.ask import MAIN
from hasten.core.condition import Condition
from hasten.core.errors import require, require_choice
from hasten.core.model import Model
from hasten.core.plan import PlanLike
from hasten.editing.edit import Editor, require_editable
from hasten.editing.method import SOURCE, Method, methods
from hasten.editing.stream import Stream, Streaming, Turn
from hasten.measuring.video import GREY
from hasten.media.arrivals import Arrivals
from hasten.media.live import is_camera, is_pipe, open_source
from hasten.media.piping import PipeWriter
from hasten.media.reading import ClipReader
from hasten.media.writing import ClipWriter
from hasten.sampling import build

DROP, WAIT = "drop", "wait"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClipEdit:
    """What an edit of a clip took.

    Attributes:
        frames: that were written; edited: that a network was asked about; carried: that have the
            edit of their key frame; the others repeat that of a frame like them.
        skipped: frames of the source that were not written, since others came meanwhile.
        evaluations: network evaluations a frame that was edited.
        seconds: of all of it, reading and writing included; latency: the median time from a
            frame's arrival to its edit, in seconds.
    """

    frames: int
    edited: int
    carried: int
    skipped: int
    evaluations: int
    seconds: float
    latency: float

    @property
    def frames_a_second(self) -> float:
        return self.frames / self.seconds


Progress = Callable[[ClipEdit], object]
"""Called after each frame with what it took so far."""


def edit_clip(
    model: Model,
    source: str | Path,
    out: str | Path,
    prompt: object,
    *,
    source_prompt: object = None,
    method: str | Method = "flowedit",
    plan: PlanLike | None = None,
    seed: int = 0,
    settings: Streaming | None = None,
    late: str | None = None,
    progress: Progress | None = None,
) -> ClipEdit:
    """Edit the clip ``source`` into ``out``: frame times and sound are kept. Frames of another size
    than the model makes are resized to it, and their edits back.

    What was edited stays a playable file where it is interrupted, or the disk is full.

    Args:
        prompt, source_prompt, method, plan, seed: as :func:`hasten.edit` takes them.
        source, out, settings, late, progress: as :meth:`ClipEditor.__call__` takes them.

    Raises:
        UserError: what :meth:`ClipEditor.of` and its call refuse.
    """
    options = {"source_prompt": source_prompt, "method": method, "plan": plan, "seed": seed}
    editor = ClipEditor.of(model, prompt, **options)
    return editor(source, out, settings=settings, late=late, progress=progress)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class ClipEditor:
    """An edit, ready for clips.

    Attributes:
        prompt, source_prompt: as they were given; conditions: of one frame.
        turn: is waited for before the model is asked, where others use it too.
    """

    editor: Editor
    prompt: object
    source_prompt: object
    conditions: dict[str, Condition]
    seed: int
    turn: Turn = contextlib.nullcontext

    @staticmethod
    def of(
        model: Model,
        prompt: object,
        *,
        source_prompt: object = None,
        method: str | Method = "flowedit",
        plan: PlanLike | None = None,
        seed: int = 0,
    ) -> ClipEditor:
        """The edit that :func:`hasten.edit` makes with the same arguments.

        Raises:
            UserError: a model of clips, or what :func:`hasten.edit` refuses.
        """
        require(
            len(model.picture_shape) == 3,
            f"model {model.name!r} makes clips, and this edits frame by frame; use one of "
            "pictures.",
        )
        sampler = build(model, plan)
        require_editable(sampler)
        return ClipEditor(
            editor=Editor.of(sampler, methods.parse(method), masked=False),
            prompt=prompt,
            source_prompt=source_prompt,
            conditions={
                MAIN: model.condition(1, prompt),
                SOURCE: model.condition(1, source_prompt),
            },
            seed=seed,
        )

    @property
    def model(self) -> Model:
        return self.editor.sampler.model

    def stream(self, settings: Streaming | None = None) -> Stream:
        """A stream that edits so, and has nothing kept from another clip."""
        editor = Editor.of(self.editor.sampler, self.editor.method, masked=False)
        return Stream(editor, self.conditions, seed=self.seed, settings=settings, turn=self.turn)

    def __call__(
        self,
        source: str | Path,
        out: str | Path,
        *,
        settings: Streaming | None = None,
        late: str | None = None,
        progress: Progress | None = None,
    ) -> ClipEdit:
        """Edit a clip.

        Args:
            source: a file that PyAV reads, ``-`` for stdin, or ``camera:0``.
            out: an MP4, or ``-`` for stdout.
            settings: how frames share network calls, and which of them are edited.
            late: what happens where the source is faster. ``wait``: it waits (files and pipes,
                their default). ``drop``: frames that came meanwhile are skipped; cameras always
                do, and a file plays at its own speed then.
            progress: told after each frame.

        Raises:
            UserError: no clip, or one that breaks off; a file that cannot be written; a camera that
                should wait.
        """
        drop = _drops(source, late)
        _require_apart(source, out)
        live = is_pipe(source) or is_camera(source)
        with Arrivals(open_source(source), drop=drop, paced=drop and not live) as arrivals:
            watch = _Watch(arrivals, self, settings, eager=drop or live)
            with self._writer(out, arrivals.reader) as writer:
                for frame, moment in watch:
                    writer.write(frame, moment)
                    if progress is not None:
                        progress(watch.told(writer.written))
        return watch.told(writer.written)

    def _writer(self, out: str | Path, reader: ClipReader) -> ClipWriter | PipeWriter:
        shown = reader.facts
        facts = {
            "model": self.model.name,
            "prompt": self.prompt,
            "plan": str(self.editor.sampler.plan),
            "seed": self.seed,
        }
        sound = reader if isinstance(reader.source, Path) else None  # it is read a second time
        if sound is None and shown.has_audio:
            warnings.warn(f"the sound of {reader.source} is not kept.", stacklevel=2)
        size = (shown.width, shown.height, shown.rate)
        if is_pipe(out):
            return PipeWriter(*size, audio_from=sound, facts=facts, like=shown)
        return ClipWriter(out, *size, audio_from=sound, facts=facts, like=shown)


class _Watch:
    """Frames on their way through a stream, and the times that belong to them.

    Args:
        eager: while no frame comes, those that are there are worked on; else network calls wait for
            more, and take as many frames in every run.
    """

    def __init__(
        self, arrivals: Arrivals, editor: ClipEditor, settings: Streaming | None, *, eager: bool
    ) -> None:
        self._began = time.perf_counter()
        self._arrivals, self._stream = arrivals, editor.stream(settings)
        self._evaluations = editor.editor.program.evaluations
        self._shape, self._eager = editor.model.picture_shape, eager
        self._waiting: deque[tuple[Fraction, float]] = deque()
        self._latencies: deque[float] = deque(maxlen=1000)

    def __iter__(self) -> Iterator[tuple[torch.Tensor, Fraction]]:
        """Each edit (3, h, w) in the size of the clip, and its time."""
        facts = self._arrivals.reader.facts
        for edited in self._stream(self._frames()):
            frame = resized(edited[None], (facts.height, facts.width))[0].expand(3, -1, -1)
            moment, arrived = self._waiting.popleft()
            self._latencies.append(time.perf_counter() - arrived)
            yield frame, moment

    def _frames(self) -> Iterator[torch.Tensor | None]:
        for arrival in self._arrivals.frames(lambda: self._eager and self._stream.unfinished > 0):
            if arrival is None:
                yield None
                continue
            self._waiting.append((arrival.time, arrival.arrived))
            yield as_model_takes(arrival.pixels[None], self._shape)[0]

    def told(self, frames: int) -> ClipEdit:
        """What it took so far."""
        ordered = sorted(self._latencies)
        return ClipEdit(
            frames=frames,
            edited=self._stream.edited,
            carried=self._stream.carried,
            skipped=self._arrivals.skipped,
            evaluations=self._evaluations,
            seconds=time.perf_counter() - self._began,
            latency=ordered[len(ordered) // 2] if ordered else 0.0,
        )


def as_model_takes(frames: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """``frames`` (n, 3 or 4, h, w) in uint8 as pictures (n, *shape) in [0, 1]."""
    pixels = frames[:, :3].float() / 255
    if shape[0] == 1:
        pixels = (pixels * torch.tensor(GREY).view(3, 1, 1)).sum(1, keepdim=True)
    return resized(pixels, (shape[1], shape[2]))


def resized(frames: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """``frames`` (n, c, h, w) in [0, 1] as (n, c, *size): bicubic, antialiased."""
    if frames.shape[-2:] == size:
        return frames
    return F.interpolate(frames, size, mode="bicubic", antialias=True).clamp(0, 1)


def _drops(source: str | Path, late: str | None) -> bool:
    """Whether frames are skipped where the source is faster."""
    if late is None:
        return is_camera(source)
    require_choice("late", late, (DROP, WAIT))
    require(
        late == DROP or not is_camera(source),
        "late is 'wait', and a camera does not; leave it out, or record the camera to a file.",
    )
    return late == DROP


def _require_apart(source: str | Path, out: str | Path) -> None:
    if is_pipe(source) or is_pipe(out):
        return
    require(
        Path(source).expanduser().resolve() != Path(out).expanduser().resolve(),
        f"out is {str(out)!r}, the clip that is read; name another file.",
    )
