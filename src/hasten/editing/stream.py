"""Frames edited as they come: stream batching and a similarity filter.

Frames are at different places of the program at the same time: one network call advances each of
them by one evaluation, every row at its own noise level (StreamDiffusion, Kodaira et al.
2312.12491, section 3.1). Latency is that of the program; a frame is finished at every call.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections import deque
from collections.abc import Callable, Iterable, Iterator

import torch

from hasten.core.condition import Condition
from hasten.core.draws import Draws
from hasten.core.engine import beside
from hasten.core.errors import require_number, require_whole
from hasten.core.run import Run, advance
from hasten.editing.edit import Editor
from hasten.editing.propagation import Carrier

LONGEST = 10  # frames in a row that may repeat the last edited one


@dataclasses.dataclass(frozen=True, kw_only=True)
class Streaming:
    """How a stream is driven.

    Attributes:
        depth: frames that share a network call, at most; 1 is frame by frame.
        similar: a frame whose mean absolute difference (pixels 0 to 1) from the last edited one is
            below this repeats its edit, ten in a row at most; 0 edits every frame.
        shared_noise: the same noise for every frame, so that what stands still stays the same.
        every: only every so many frames is a key frame, edited by the network; the edit is carried
            over to those between (:mod:`hasten.editing.propagation`), or they become key frames
            where what was changed is not found in them.
    """

    depth: int = 1 << 16
    similar: float = 0.0
    shared_noise: bool = True
    every: int = 1

    def __post_init__(self) -> None:
        require_whole("depth", self.depth, 1, 1 << 16)
        require_number("similar", self.similar, 0.0, 1.0)
        require_whole("every", self.every, 1, 1 << 16)


Turn = Callable[[], contextlib.AbstractContextManager[object]]
"""``with turn():`` around what a model is asked, where others use it too."""


class Stream:
    """Edits frames one after another with a program.

    Attributes:
        edited, repeated, carried: how many frames were, so far: edited by the network, given the
            edit of the last one, or that of their key frame where it has moved to.
    """

    def __init__(
        self,
        editor: Editor,
        conditions: dict[str, Condition],
        *,
        seed: int = 0,
        settings: Streaming | None = None,
        turn: Turn = contextlib.nullcontext,
    ) -> None:
        self.editor, self.conditions, self.seed = editor, conditions, seed
        self._turn = turn
        self.settings = settings or Streaming()
        self.edited = self.repeated = self.carried = 0
        self._runs: deque[_Frame] = deque()
        self._last: torch.Tensor | None = None  # the input of the last frame that was edited
        self._similar = 0

    @property
    def unfinished(self) -> int:
        """How many frames a network still has to be asked about."""
        return sum(not run.done for run in self._runs)

    def __call__(self, frames: Iterable[torch.Tensor | None]) -> Iterator[torch.Tensor]:
        """The edit of each of ``frames`` (c, h, w) in [0, 1], in order; on the CPU. Where None
        stands for a frame, none has come yet, and those before are worked on.

        Raises:
            UserError: a frame of another size than the model makes.
            NonFiniteError: the network's answer is not finite.
        """
        if self.settings.every > 1:
            yield from self._from_keys(frames)
            return
        depth = min(self.settings.depth, self.editor.program.evaluations)
        for frame in frames:
            if frame is None:
                if self.unfinished:
                    self._advance()
            elif self._is_similar(frame):
                self._runs[-1].copies += 1
                self.repeated += 1
            else:
                while self.unfinished >= depth:
                    self._advance()
                self._begin(self.edited + self.repeated, frame)
                self._advance()
            yield from self._finished()
        while self.unfinished:
            self._advance()
            yield from self._finished()
        if self._runs:  # the last one waits for frames like it
            yield from self._runs.popleft().frames()

    def _from_keys(self, frames: Iterable[torch.Tensor | None]) -> Iterator[torch.Tensor]:
        """Key frames by the network, the frames between from them."""
        carrier, since, last = None, 0, torch.empty(0)
        for number, frame in enumerate(each for each in frames if each is not None):
            if self._last is not None and self._is_similar(frame):
                self.repeated += 1
                yield last
                continue
            since += 1
            made = None
            if carrier is not None and since < self.settings.every:
                made = carrier(frame)
                self.carried += made is not None
                self._last = frame.float()
            if made is None:
                since, made = 0, self._edited(number, frame)
                carrier = Carrier(frame, made)
            last = made
            yield made

    def _edited(self, number: int, frame: torch.Tensor) -> torch.Tensor:
        """The edit of one frame, by the network alone."""
        self._begin(number, frame)
        while not self._runs[-1].done:
            self._advance()
        picture = self._runs.pop().picture
        assert picture is not None
        return picture

    def _is_similar(self, frame: torch.Tensor) -> bool:
        near = (
            self.settings.similar > 0
            and self._last is not None
            and self._similar < LONGEST
            and float((frame.float() - self._last).abs().mean()) < self.settings.similar
        )
        self._similar = self._similar + 1 if near else 0
        return near

    def _begin(self, number: int, frame: torch.Tensor) -> None:
        self._last = frame.float()
        place = 0 if self.settings.shared_noise else number
        draws = Draws(self.seed, [place], self.editor.sampler.model)
        with self._turn():
            self._runs.append(_Frame(*self.editor.begun(frame[None], self.conditions, draws)))
        self.edited += 1

    @torch.inference_mode()
    def _advance(self) -> None:
        """One network call for all frames that are not finished."""
        live = [run for run in self._runs if not run.done]
        with self._turn():
            with beside(self.editor.sampler.resolved.engine):
                advance(live)
            for run in live:
                if run.done:
                    run.picture = self.editor.decoded(run.result())[0].cpu()

    def _finished(self) -> Iterator[torch.Tensor]:
        """The frames that are done, but for the last run: others may still be like it."""
        while len(self._runs) > 1 and self._runs[0].done:
            yield from self._runs.popleft().frames()
        if self._runs and self._runs[0].done and self.settings.similar == 0:
            yield from self._runs.popleft().frames()


class _Frame(Run):
    """A frame on its way through the program; ``copies`` frames after it repeat its edit."""

    copies = 0
    picture: torch.Tensor | None = None

    def frames(self) -> Iterator[torch.Tensor]:
        assert self.picture is not None
        for _ in range(1 + self.copies):
            yield self.picture
