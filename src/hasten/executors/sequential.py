"""One question after another: the executor that everything else is held against."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch

from hasten.core.ask import Machine
from hasten.core.errors import NonFiniteError
from hasten.core.executor import Crowd, Executor, Watch, executors
from hasten.core.level import Level
from hasten.core.program import Program, Walk

ROWS = 1024  # pictures of one network call that answers several questions


@executors.add("sequential")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Sequential(Executor):
    """Row by row, forgetting each register after its last use."""

    def run(self, program: Program, x: Any, machine: Crowd, watch: Watch | None = None) -> Any:
        values = {"x": x}
        del x  # the table decides how long the start lives
        calls = 0
        for row, dead in zip(program.rows, program.frees, strict=True):
            ask = row.ask
            answers = ask.answer(machine, *[values[name] for name in ask.reads()])
            values.update(zip(row.out, answers, strict=True))
            if watch is not None and ask.calls:
                watch(calls, answers[0])
                calls += 1
            del answers
            for name in dead:
                del values[name]
        return values[program.output]


def drive(walk: Walk, machine: Machine, watch: Watch | None = None) -> Any:
    """Run a walk itself, for solvers that have no Program (step sizes that depend on the data)."""
    answer, calls = None, 0
    while True:
        try:
            ask = walk.send(answer)
        except StopIteration as stop:
            return stop.value
        answers = ask.answer(machine, *ask.reads())
        if watch is not None and ask.calls:
            watch(calls, answers[0])
            calls += 1
        answer = answers[0] if len(answers) == 1 else answers


class Answers:
    """A Crowd over a denoiser and a source of noise, which watches for values not finite.

    The checks stay on the device: one sum a call, read once by :meth:`check`, so the loop never
    waits for the device.
    """

    def __init__(
        self, denoiser: Any, noise: Callable[[], Any], cond: Any = None, null: Any = None
    ) -> None:
        self._denoiser, self._noise, self._cond, self._null = denoiser, noise, cond, null
        self._sums: list[tuple[float, torch.Tensor]] = []

    def denoise(self, x: Any, level: Level) -> Any:
        given = (x, level) if self._cond is None else (x, level, self._cond)
        return self._seen(self._denoiser(*given), level.t)

    def denoise_many(self, xs: Sequence[Any], levels: Sequence[Level]) -> list[Any]:
        """What :meth:`denoise` answers to each, asked side by side: in one network call, or as many
        as keep it at ROWS pictures."""
        many = getattr(self._denoiser, "many", None)
        if many is None or len(xs) == 1:
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
        x0, variance = self._denoiser.with_variance(x, level, self._cond)
        return self._seen(x0, level.t), variance

    def network(self, x: Any, t: float, branch: str) -> Any:
        cond = self._null if branch == "null" else self._cond
        return self._seen(self._denoiser.raw(x, t, cond), t)

    def noise(self) -> Any:
        return self._noise()

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
