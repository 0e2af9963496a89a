"""A Program's questions answered from the clean end to the noisy one."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from itertools import pairwise

import torch

from hasten.core.call import Answer, Call, Denoiser
from hasten.core.level import Level
from hasten.core.program import Program
from hasten.core.session import Session
from hasten.editing.mixing import Mixer
from hasten.executors.sequential import Sequential

INNER = 12  # iterations of one level
MEMORY = 3  # of their mixing
Asked = list[tuple[torch.Tensor, torch.Tensor]]
"""The latent and the answer of every question of a run, in order."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Step:
    """``next = keep * x + gain * x0``: the first-order step from one question's level to the next
    one's (DDIM, :func:`hasten.solvers.steps.exponential_step`)."""

    here: Level
    there: Level

    @property
    def keep(self) -> float:
        return self.there.sigma / self.here.sigma

    @property
    def gain(self) -> float:
        if self.there.sigma == 0 or self.here.alpha == 0:
            return self.there.alpha
        h = self.there.half_log_snr - self.here.half_log_snr
        return -self.there.alpha * math.expm1(-h)

    @property
    def move(self) -> float:
        """How far to follow an error of ``next`` in x. Where x0 answers to y = x / alpha with a
        slope from 0 to 1 (that of an exact denoiser of one Gaussian), the error of the iteration
        shrinks whatever the length of the step."""
        if self.keep == 0:
            return self.here.alpha / self.gain
        return 1 / (self.keep + 0.5 * max(self.gain, 0.0) / max(self.here.alpha, 1e-3))


def steps_of(program: Program, end: Level) -> list[Step]:
    """The first-order steps along the levels that ``program`` asks at, the last one to ``end``."""
    return [Step(here=a, there=b) for a, b in pairwise((*program.levels, end))]


class Backwards:
    """Looks for the starts from which ``program`` makes given ends.

    Whatever the solver, its question k + 1 (or its output) is the first-order step from question k,
    and a rest. Given the rests, the questions are found one after the other from the end, each by a
    fixed point; given the start, a run of the program itself says what the rests are. For one-step
    first-order solvers (ddim, euler) they are 0 and one sweep does; for others sweeps are repeated,
    with the rests mixed as :class:`Mixer` does. Every picture is iterated on its own.
    """

    def __init__(self, program: Program, steps: Sequence[Step], ends: torch.Tensor) -> None:
        self.program, self.steps, self.ends = program, steps, ends
        self.evaluated: Asked | None = None
        self.rests = ends.new_zeros(len(ends), len(steps), *ends.shape[1:])
        self.mixer = Mixer(depth=6)
        self.evaluations = 0

    def sweep(self, session: Session, tolerance: float) -> torch.Tensor:
        """Starts (n, c, h, w) by the rests as they are now known."""
        after, x0 = self.ends, self.ends
        for k in reversed(range(len(self.steps))):
            step, wanted = self.steps[k], after - self.rests[:, k]
            if self.evaluated is not None:
                x, x0 = self.evaluated[k]
                x = x + step.move * (wanted - step.keep * x - step.gain * x0)
            elif step.keep == 0:
                x = step.here.alpha * wanted
            else:
                x = (wanted - step.gain * x0) / step.keep
            after, x0 = self._level(step, x, wanted, session, tolerance * step.there.alpha)
        return after

    def run(self, x: torch.Tensor, session: Session) -> torch.Tensor:
        """What the program makes of the starts ``x``; learns the rests from it."""
        recorder = Recorder(session.denoiser)
        out = Sequential().run(self.program, {"x": x}, session.answered_by(recorder))
        evaluated = recorder.evaluated
        self.evaluated = evaluated
        self.evaluations += len(evaluated)
        after = [*(question for question, _ in evaluated[1:]), out]
        rests = torch.stack(
            [
                there - step.keep * x - step.gain * x0
                for step, there, (x, x0) in zip(self.steps, after, evaluated, strict=True)
            ],
            dim=1,
        )
        self.rests = self.mixer.next(self.rests, rests - self.rests)
        return out

    def keep_(self, rows: torch.Tensor) -> None:
        """Go on with the pictures ``rows`` of the batch alone."""
        self.ends, self.rests = self.ends[rows], self.rests[rows]
        self.evaluated = [(x[rows], x0[rows]) for x, x0 in self.evaluated or []]
        self.mixer.keep_(rows)

    def _level(
        self,
        step: Step,
        x: torch.Tensor,
        wanted: torch.Tensor,
        session: Session,
        tolerance: float,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(x, its x0) with ``keep * x + gain * x0 = wanted`` up to ``tolerance`` (root mean
        square), or as near as INNER iterations come."""
        mixer, shape = Mixer(MEMORY), (-1, *[1] * (x.ndim - 1))
        x0 = session.denoise(x, step.here)
        self.evaluations += 1
        for _ in range(INNER):
            error = wanted - step.keep * x - step.gain * x0
            far = error.square().flatten(1).mean(dim=1).sqrt() > tolerance
            if not far.any():
                break
            moved = mixer.next(x, step.move * error)
            x = torch.where(far.view(shape), moved, x)
            x0 = torch.where(far.view(shape), session.denoise(x, step.here), x0)
            self.evaluations += 1
        return x, x0


class Recorder:
    """A denoiser that keeps the latents and the x0 of every call."""

    def __init__(self, denoiser: Denoiser) -> None:
        self.denoiser = denoiser
        self.evaluated: Asked = []

    def __call__(self, calls: Sequence[Call]) -> list[Answer]:
        answers = self.denoiser(calls)
        for call, answer in zip(calls, answers, strict=True):
            self.evaluated.append((call.x.clone(), answer.x0.clone()))
        return answers
