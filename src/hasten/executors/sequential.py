"""One question after another: the executor that everything else is held against."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch

from hasten.core.ask import Backend, Denoise
from hasten.core.errors import NonFiniteError, UserError
from hasten.core.executor import BatchedBackend, Executor, Watch, executors
from hasten.core.feature_cache import Features
from hasten.core.level import Level
from hasten.core.program import Program, Walk

ROWS = 1024  # pictures of one network call that answers several questions


@executors.add("sequential")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Sequential(Executor):
    """Row by row, forgetting each register after its last use."""

    in_order = True

    def run(
        self, program: Program, x: Any, backend: BatchedBackend, watch: Watch | None = None
    ) -> Any:
        values = {"x": x}
        del x  # the table decides how long the start lives
        calls = 0
        for group in program.groups:
            row = program.rows[group[0]]
            answers = self._answers(program, group, backend, values)
            names = [name for number in group for name in program.rows[number].out]
            values.update(zip(names, answers, strict=True))
            if watch is not None and row.ask.calls:
                watch(calls, answers[-1] if len(group) > 1 else answers[0])
                calls += 1
            del answers
            for number in group:
                for name in program.frees[number]:
                    del values[name]
        return values[program.output]

    def _answers(
        self,
        program: Program,
        group: tuple[int, ...],
        backend: BatchedBackend,
        values: dict[str, Any],
    ) -> Sequence[Any]:
        asks = [program.rows[number].ask for number in group]
        given = [[values[name] for name in ask.reads()] for ask in asks]
        if len(group) == 1:
            return asks[0].answer(backend, *given[0])
        levels = [ask.level for ask in asks if isinstance(ask, Denoise)]
        return backend.denoise_many([x for (x,) in given], levels)


def drive(walk: Walk, backend: Backend, watch: Watch | None = None) -> Any:
    """Run a walk itself, for solvers that have no Program (step sizes that depend on the data)."""
    answer, calls = None, 0
    while True:
        try:
            ask = walk.send(answer)
        except StopIteration as stop:
            return stop.value
        answers = ask.answer(backend, *ask.reads())
        if watch is not None and ask.calls:
            watch(calls, answers[0])
            calls += 1
        answer = answers[0] if len(answers) == 1 else answers


class Answers:
    """A Crowd over a denoiser and a source of noise, which watches for values not finite.

    The checks stay on the device: one sum a call, read once by :meth:`check`, so the loop never
    waits for the device.

    ``keep`` opens what a run keeps of the network's features, for programs that reuse them. It is
    opened here, once a branch, so it is empty at the start of every run, whatever became of others.
    """

    def __init__(
        self,
        denoiser: Any,
        noise: Callable[..., Any],
        cond: Any = None,
        null: Any = None,
        keep: Callable[[], Features] | None = None,
    ) -> None:
        self._denoiser, self._noise, self._cond, self._null = denoiser, noise, cond, null
        self._sums: list[tuple[float, torch.Tensor]] = []
        self._keep, self._features, self._reuses = keep, dict[str, Features](), False

    def denoise(self, x: Any, level: Level) -> Any:
        given = (x, level) if self._cond is None else (x, level, self._cond)
        return self._seen(self._denoiser(*given, **self._asked()), level.t)

    def denoise_many(self, xs: Sequence[Any], levels: Sequence[Level]) -> list[Any]:
        """What :meth:`denoise` answers to each, asked side by side: in one network call, or as many
        as keep it at ROWS pictures."""
        many = getattr(self._denoiser, "many", None)
        if many is None or len(xs) == 1 or self._keep is not None:  # features: one after another
            return [self.denoise(x, level) for x, level in zip(xs, levels, strict=True)]
        n, out = len(xs[0]), []
        at_once = max(1, ROWS // n)
        for first in range(0, len(xs), at_once):
            some, at = xs[first : first + at_once], levels[first : first + at_once]
            cond = None if self._cond is None else torch.cat([self._cond] * len(some))
            found = many(torch.cat(list(some)), at, cond).split(n)
            out += [self._seen(one, level.t) for one, level in zip(found, at, strict=True)]
        return out

    def denoise_with_variance(self, x: Any, level: Level) -> tuple[Any, Any]:
        x0, variance = self._denoiser.with_variance(x, level, self._cond, **self._asked())
        return self._seen(x0, level.t), variance

    def network(self, x: Any, t: float, branch: str) -> Any:
        cond = self._null if branch == "null" else self._cond
        return self._seen(self._denoiser.raw(x, t, cond, **self._asked(branch)), t)

    def reusing(self) -> Answers:
        """The same run, whose next answers take the features it kept."""
        if self._keep is None:
            raise UserError(
                "this program reuses features, but a denoiser of one's own keeps none; build a "
                "Sampler from a plan with reuse, or drop it."
            )
        other = copy.copy(self)
        other._reuses = True
        return other

    def _asked(self, branch: str = "cond") -> dict[str, Any]:
        """Which network to ask: the denoiser's own, or one that keeps and reuses features."""
        if self._keep is None:
            return {}
        if branch not in self._features:
            self._features[branch] = self._keep()
        features = self._features[branch]
        return {"net": features.part if self._reuses else features.full}

    def denoise_at(self, x: Any, levels: Sequence[Level], rows: Sequence[int]) -> Any:
        """x0 of the pictures ``rows`` of the batch, each at its own level."""
        many = getattr(self._denoiser, "many", None)
        if many is None:
            pairs = zip(x.split(1), levels, strict=True)
            return self._seen(torch.cat([self._denoiser(*pair) for pair in pairs]), levels[0].t)
        cond = None if self._cond is None else self._cond[list(rows)]
        return self._seen(many(x, levels, cond), levels[0].t)

    def noise(self) -> Any:
        return self._noise()

    def noise_of(self, rows: Sequence[int]) -> Any:
        """The next noise of the pictures ``rows`` of the batch, from their own streams alone."""
        return self._noise(rows)

    def among(self, rows: Sequence[int]) -> Answers:
        """The same run, asked about the pictures ``rows`` of the batch alone. Features that it kept
        are of the whole batch, so a program that reuses them cannot be asked in parts."""
        other, chosen = copy.copy(self), list(rows)
        other._cond = None if self._cond is None else self._cond[chosen]
        other._null = None if self._null is None else self._null[chosen]
        other._noise = lambda: self._noise(chosen)
        other._keep = None
        return other

    def _seen(self, value: Any, t: float) -> Any:
        self._sums.append((t, value.sum()))
        return value

    def check(self) -> None:
        """Raise :class:`NonFiniteError` naming the first network call that was not finite."""
        if not self._sums:
            return
        finite = torch.isfinite(torch.stack([total for _, total in self._sums])).tolist()
        if not all(finite):
            first = finite.index(False)
            raise NonFiniteError(
                f"the network's answer {first + 1} of {len(finite)} (t = {self._sums[first][0]:g}) "
                "is not finite. Its weights may be damaged or its dtype too narrow: use "
                "dtype=float32, or load the model again."
            )
