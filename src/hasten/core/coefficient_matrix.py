"""A deterministic Program as one lower-triangular matrix.

Whatever its solver, a program without noise asks the network about linear combinations of the start
and the answers it has: question n is ``C[n, 0] x + sum_j C[n, 1 + j] d_j`` over earlier answers
d_j, and the last row gives the result. So N evaluations have N levels and (N + 1)(N + 2) / 2
numbers at most, which can be learned (2510.17699, eq. 10, written over answers alone).
"""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np

from hasten.core.ask import MAIN, Clip, Combine, Denoise
from hasten.core.errors import UserError, require
from hasten.core.level import Array, Level
from hasten.core.program import Program, Walk, symbol, trace_walk
from hasten.core.stepping import Answers, Pending, follow, on_symbols, stepping


@dataclasses.dataclass(frozen=True, eq=False)
class CoefficientMatrix:
    """Levels of the N questions, and ``matrix`` (N + 1, N + 1): a row a question and one for the
    result, a column for the start and one an answer.

    Attributes:
        start: the level the start lies at.
        clip: every answer is held in [-clip, clip] before it is used; None leaves it alone.
    """

    levels: tuple[Level, ...]
    matrix: Array
    start: Level
    clip: float | None = None

    @property
    def depths(self) -> list[int]:
        """For every question the round it can be asked in: one after all that it reads."""
        out: list[int] = []
        for row in self.matrix[:-1]:
            read = [out[j] for j in range(len(out)) if row[1 + j] != 0]
            out.append(1 + max(read, default=-1))
        return out

    def program(self) -> Program:
        """The table: a Combine and a Denoise (and a Clip) an evaluation, those of one round
        together."""
        return trace_walk(self._walk(symbol()), self.start)

    def _walk(self, x: object) -> Walk:
        known = [x]
        for _, group in itertools.groupby(enumerate(self.depths), key=lambda pair: pair[1]):
            spots = [spot for spot, _ in group]
            questions, answers = [], []
            for spot in spots:  # all questions of a round before any answer
                questions.append((yield from _sum(self.matrix[spot], known)))
            for spot, question in zip(spots, questions, strict=True):
                answers.append((yield Denoise(question, self.levels[spot])))
            if self.clip is not None:
                for place, answer in enumerate(answers):
                    answers[place] = yield Clip(answer, -self.clip, self.clip)
            known += answers
        return (yield from _sum(self.matrix[-1], known))

    @staticmethod
    def of(program: Program) -> CoefficientMatrix:
        """The matrix of ``program``.

        Raises:
            UserError: it draws noise, reads a learned variance, or clips anything but answers.
        """
        require(program.plain, "a program with variants of a network is no matrix; drop the lever.")
        count = program.evaluations
        levels: list[Level] = []
        questions: list[Array] = []
        clips: list[float | None] = []

        def answer(pending: tuple[Pending, ...]) -> list[Answers]:
            (row,) = pending
            ask, (value, *_) = row.ask, (*row.values, None)
            if isinstance(ask, Denoise) and ask.condition == MAIN:
                levels.append(ask.level)
                questions.append(value)
                clips.append(None)
                return [(_unit(len(levels), count),)]
            if isinstance(ask, Clip) and _is_last_answer(value, len(levels), ask):
                clips[-1] = ask.high
                return [(value,)]
            raise UserError(f"a program with a row {ask.op!r} here is no matrix; use another.")

        registers = {"x": _unit(0, count)}
        steps = stepping(program, registers, compute=on_symbols, together=False)
        output = follow(steps, answer)
        require(len(set(clips)) == 1, "a program that clips some answers only is no matrix.")
        matrix = np.stack([*questions, output])
        return CoefficientMatrix(tuple(levels), matrix, program.start, clips[0])


def _unit(place: int, count: int) -> Array:
    return np.eye(count + 1)[place]


def _is_last_answer(value: Array, number: int, ask: Clip) -> bool:
    return ask.low == -ask.high and bool((value == _unit(number, len(value) - 1)).all())


def _sum(row: Array, known: list[object]) -> Walk:
    terms = [(float(c), latent) for c, latent in zip(row, known, strict=False) if c != 0.0]
    if len(terms) == 1 and terms[0][0] == 1.0:
        return terms[0][1]
    terms = terms or [(0.0, known[0])]
    return (yield Combine(tuple(latent for _, latent in terms), tuple(c for c, _ in terms)))
