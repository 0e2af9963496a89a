"""Step sizes chosen by an error estimate, for each picture of a batch on its own."""

from __future__ import annotations

import dataclasses
import math
from abc import abstractmethod
from collections.abc import Generator, Sequence
from typing import ClassVar

import torch

from hasten.core.ask import Ask, DenoiseAt
from hasten.core.errors import NonFiniteError, UserError, require_number
from hasten.core.level import Level
from hasten.core.linear import Linear
from hasten.core.program import Walk
from hasten.core.transfer import sent
from hasten.solvers.off_grid import Between, Read

MOST_TRIES = 10_000
SAFETY = 0.9
Trail = list[list[float]]
"""For each picture of a batch the half log-SNRs where its accepted steps began, and their end."""

Attempt = Generator[Ask, torch.Tensor, tuple[torch.Tensor, torch.Tensor]]
"""Asks for x0 and noise, and returns two solutions of a step."""


@dataclasses.dataclass
class Trials:
    """The steps that some pictures of a batch now try, from ``here`` to ``there``.

    Attributes:
        rows: which pictures of the batch; their latents are ``x`` (k, c, h, w).
        known: what was learned at ``here`` and holds again when the step is tried again, by name.
        fresh: the places in ``rows`` that stand at ``here`` for the first time.
        read: the schedule's level at a half log-SNR.
    """

    rows: list[int]
    x: torch.Tensor
    here: list[Level]
    there: list[Level]
    known: dict[str, torch.Tensor]
    fresh: list[int]
    read: Read

    def middles(self, share: float) -> list[Level]:
        """The level of each picture at ``share`` of its step, in log-SNR."""
        pairs = zip(self.here, self.there, strict=True)
        ends = [(here.half_log_snr, there.half_log_snr) for here, there in pairs]
        return [self.read(start + share * (end - start)) for start, end in ends]

    def ask(self, x: torch.Tensor, levels: Sequence[Level]) -> DenoiseAt:
        """x0 of ``x``, a latent of every picture here, each at its own level."""
        return DenoiseAt(x, tuple(levels), tuple(self.rows))

    def ask_fresh(self) -> DenoiseAt:
        """x0 at ``here`` of the pictures that have not asked there yet."""
        levels = tuple(self.here[k] for k in self.fresh)
        return DenoiseAt(self.x[self.fresh], levels, self.fresh_rows)

    @property
    def fresh_rows(self) -> tuple[int, ...]:
        return tuple(self.rows[k] for k in self.fresh)

    def learn_(self, name: str, values: torch.Tensor) -> None:
        """Keep ``values``, one for each fresh picture, until their steps are accepted."""
        if name not in self.known:
            self.known[name] = torch.zeros_like(self.x)
        self.known[name][self.fresh] = values


class Adaptive(Between):
    """A pair of solutions a step, whose distance says whether the step is accepted.

    The distance of a step is the root mean square over a picture's numbers of ``low - high``
    divided by ``max(atol, rtol * max(|low|, |last low|))``, latents being divided by the spread of
    their level; up to 1 the step is accepted. Every step is then ``0.9 * distance ** -power`` times
    as long as the last one tried (2105.14080, algorithm 1; 2206.00927). The first step tried has
    the length of the grid's first one, in log-SNR; the grid's other levels are not visited. Every
    picture has its own steps, so it does not depend on its batch-mates.
    """

    rtol: float
    atol: float
    longest: ClassVar[float] = math.inf
    """The longest step, in half log-SNR."""

    @abstractmethod
    def frozen(self) -> str:
        """The solver, in text, for a grid that lists the steps taken."""

    @abstractmethod
    def inner(self) -> int:
        """How many levels that grid has to list for each of them, even in log-SNR."""

    def check_tolerances(self) -> None:
        """Raise unless both tolerances can be reached by a state in float32."""
        require_number("solver option rtol", self.rtol, 1e-6, 1.0)
        require_number("solver option atol", self.atol, 1e-6, 1.0)

    @property
    @abstractmethod
    def power(self) -> float: ...

    @abstractmethod
    def attempt(self, now: Trials) -> Attempt:
        """(low, high): two solutions at ``now.there``; the step goes on from ``high``."""

    def inside(self, x: torch.Tensor, levels: Sequence[Level], read: Read) -> Walk:
        return (yield from self.crossed(x, levels, read))[0]

    def crossed(
        self, x: torch.Tensor, levels: Sequence[Level], read: Read
    ) -> Generator[Ask, torch.Tensor, tuple[torch.Tensor, Trail]]:
        """The latents at ``levels[-1]``, and where each picture's steps were."""
        n, end = len(x), levels[-1]
        trail: Trail = [[levels[0].half_log_snr] for _ in range(n)]
        length = [levels[1].half_log_snr - levels[0].half_log_snr] * n
        done = torch.empty_like(x)
        now = Trials(list(range(n)), x, [levels[0]] * n, [end] * n, {}, list(range(n)), read)
        last = (x / _column([level.spread for level in now.here], x)).abs()
        for _ in range(MOST_TRIES):
            now.there = [
                _next(here, min(length[row], self.longest), end, read)
                for here, row in zip(now.here, now.rows, strict=True)
            ]
            low, high = yield from self.attempt(now)
            spread = _column([level.spread for level in now.there], low)
            size = torch.maximum((low / spread).abs(), last).mul(self.rtol).clamp(min=self.atol)
            errors = ((high - low) / spread / size).square().flatten(1).mean(dim=1).sqrt().tolist()
            passed = [error <= 1 for error in errors]
            for k, (row, error) in enumerate(zip(now.rows, errors, strict=True)):
                require_finite(row, error, now.here[k])
                tried = now.there[k].half_log_snr - now.here[k].half_log_snr
                length[row] = SAFETY * tried * max(error, 1e-8) ** -self.power
                if passed[k]:
                    trail[row].append(now.there[k].half_log_snr)
            keep = torch.tensor(passed, device=x.device).view(-1, *[1] * (x.ndim - 1))
            last = torch.where(keep, (low / spread).abs(), last)
            now.x = torch.where(keep, high, now.x)
            now.here = [
                there if ok else here
                for ok, here, there in zip(passed, now.here, now.there, strict=True)
            ]
            now.fresh = [k for k, ok in enumerate(passed) if ok]
            arrived = [k for k in now.fresh if now.here[k] == end]
            done[[now.rows[k] for k in arrived]] = now.x[arrived]
            last = _dropped_(now, last, set(arrived))
            if not now.rows:
                return done, trail
        raise UserError(
            f"solver {self.part_name!r} tried {MOST_TRIES} steps and is at sigma / alpha = "
            f"{now.here[0].ratio:.3g} of {end.ratio:.3g}; raise rtol ({self.rtol:g}) or atol "
            f"({self.atol:g})."
        )


def combined(sums: Sequence[Linear], values: dict[str, torch.Tensor]) -> torch.Tensor:
    """One sum a picture over the latents ``values``: the formulas of a step, written down for each
    picture's own levels by the symbols that also trace a Program."""
    total = torch.zeros_like(values["x"])
    for name, value in values.items():
        total = total + _column([step.terms.get(name, 0.0) for step in sums], value) * value
    return total


def require_finite(row: int, error: float, here: Level) -> None:
    """Raise unless the ``error`` of the picture ``row`` is a finite number."""
    if not math.isfinite(error):
        raise NonFiniteError(
            f"the network's answer for picture {row} of the batch, near t = {here.t:g}, is not "
            "finite. Its weights may be damaged or its dtype too narrow: use dtype=float32, or "
            "load the model again."
        )


def _next(here: Level, length: float, end: Level, read: Read) -> Level:
    """The level ``length`` on in log-SNR; ``end`` where that is past it, or all but there."""
    left = end.half_log_snr - here.half_log_snr
    return end if length > 0.999 * left else read(here.half_log_snr + length)


def _dropped_(now: Trials, last: torch.Tensor, places: set[int]) -> torch.Tensor:
    """Drop the pictures at ``places``; returns what is left of ``last``."""
    if not places:
        return last
    stay = [k for k in range(len(now.rows)) if k not in places]
    number = {k: new for new, k in enumerate(stay)}
    now.rows, now.here = [now.rows[k] for k in stay], [now.here[k] for k in stay]
    now.fresh = [number[k] for k in now.fresh if k in number]
    now.x = now.x[stay]
    now.known = {name: value[stay] for name, value in now.known.items()}
    return last[stay]


def _column(numbers: Sequence[float], like: torch.Tensor) -> torch.Tensor:
    column = torch.tensor(numbers, dtype=like.dtype)
    return sent(column, like.device).view(-1, *[1] * (like.ndim - 1))
