"""A clip or a camera edited frame by frame, in constant memory, with its sound kept."""

from __future__ import annotations

import dataclasses
import time
from collections import deque
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import torch
import torch.nn.functional as F

from hasten.core.ask import MAIN
from hasten.core.errors import UserError, require
from hasten.core.model import Model
from hasten.core.plan import PlanLike
from hasten.editing.edit import Editor, require_editable
from hasten.editing.method import SOURCE, Method, methods
from hasten.editing.stream import Stream, Streaming
from hasten.measuring.video import GREY
from hasten.media.reading import ClipReader, open_clip
from hasten.media.writing import ClipWriter
from hasten.sampling import build

Progress = Callable[[int], object]
"""Called with the number of frames written so far."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClipEdit:
    """What an edit of a clip took.

    Attributes:
        frames: that were written; edited: that a network was asked about; carried: that have the
            edit of their key frame; the others repeat that of a frame like them.
        evaluations: network evaluations a frame that was edited.
        seconds: of all of it, reading and writing included; latency: the median time from a
            frame's arrival to its edit, in seconds.
    """

    frames: int
    edited: int
    carried: int
    evaluations: int
    seconds: float
    latency: float

    @property
    def frames_a_second(self) -> float:
        return self.frames / self.seconds


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
    progress: Progress | None = None,
) -> ClipEdit:
    """Edit the clip ``source``, any file that PyAV reads, into the MP4 ``out``: frame times and
    sound are kept. Frames of another size than the model makes are resized to it, and their edits
    back.

    What was edited stays a playable file where it is interrupted, or the disk is full.

    Args:
        prompt, source_prompt, method, plan, seed: as :func:`hasten.edit` takes them.
        settings: how frames share network calls, and which of them are edited.
        progress: told after each frame.

    Raises:
        UserError: a file that is no clip or breaks off, one that cannot be written, or what
            :func:`hasten.edit` refuses.
    """
    require(
        len(model.picture_shape) == 3,
        f"model {model.name!r} makes clips, and this edits frame by frame; use one of pictures.",
    )
    require(
        Path(source).expanduser().resolve() != Path(out).expanduser().resolve(),
        f"out is {str(out)!r}, the clip that is read; name another file.",
    )
    sampler = build(model, plan)
    require_editable(sampler)
    editor = Editor.of(sampler, methods.parse(method), masked=False)
    conditions = {MAIN: model.condition(1, prompt), SOURCE: model.condition(1, source_prompt)}
    stream = Stream(editor, conditions, seed=seed, settings=settings)
    facts = {"model": model.name, "prompt": prompt, "plan": str(sampler.plan), "seed": seed}
    began = time.perf_counter()
    with open_clip(source) as reader:
        shown = reader.facts
        watch = _Watch(reader, model.picture_shape)
        with ClipWriter(
            out, shown.width, shown.height, shown.rate, audio_from=reader, facts=facts
        ) as writer:
            for edited in stream(watch):
                frame = resized(edited[None], (shown.height, shown.width))[0]
                writer.write(frame.expand(3, -1, -1), watch.finished())
                if progress is not None:
                    progress(writer.written)
        frames = writer.written
    return ClipEdit(
        frames=frames,
        edited=stream.edited,
        carried=stream.carried,
        evaluations=editor.program.evaluations,
        seconds=time.perf_counter() - began,
        latency=watch.latency,
    )


class _Watch:
    """The frames of a clip as the model takes them, and the times that belong to them."""

    def __init__(self, reader: ClipReader, shape: tuple[int, ...]) -> None:
        self._reader, self._channels, self._size = reader, shape[0], (shape[1], shape[2])
        self._waiting: deque[tuple[Fraction, float]] = deque()
        self._latencies: list[float] = []

    def __iter__(self) -> Iterator[torch.Tensor]:
        for pixels, moment in self._reader:
            self._waiting.append((moment, time.perf_counter()))
            frame = pixels[:3].float() / 255
            if self._channels == 1:
                frame = (frame * torch.tensor(GREY).view(3, 1, 1)).sum(0, keepdim=True)
            yield resized(frame[None], self._size)[0]

    def finished(self) -> Fraction:
        """The time of the frame whose edit came out."""
        moment, arrived = self._waiting.popleft()
        self._latencies.append(time.perf_counter() - arrived)
        del self._latencies[:-1000]  # of the last thousand
        return moment

    @property
    def latency(self) -> float:
        ordered = sorted(self._latencies)
        if not ordered:
            raise UserError("the clip has no frame.")
        return ordered[len(ordered) // 2]


def resized(frames: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """``frames`` (n, c, h, w) in [0, 1] as (n, c, *size): bicubic, antialiased."""
    if frames.shape[-2:] == size:
        return frames
    return F.interpolate(frames, size, mode="bicubic", antialias=True).clamp(0, 1)
