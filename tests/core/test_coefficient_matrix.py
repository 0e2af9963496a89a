"""Programs as matrices."""

from __future__ import annotations

import pytest

import hasten
from hasten.core.ask import Clip, Combine, Denoise
from hasten.core.coefficient_matrix import CoefficientMatrix
from hasten.core.errors import UserError
from hasten.core.level import Level
from hasten.core.program import Walk, symbol, trace_walk

LEVELS = Level(900.0, 0.3, 0.9), Level(300.0, 0.8, 0.6)


def walk(x: object, clipped: tuple[bool, bool]) -> Walk:
    """Two evaluations whose answers are clipped or not."""
    answers = []
    for level, clip in zip(LEVELS, clipped, strict=True):
        answer = yield Denoise(x, level)
        answers.append((yield Clip(answer, -1.0, 1.0)) if clip else answer)
        x = yield Combine((x, answers[-1]), (0.5, 0.5))
    return (yield Combine(tuple(answers), (0.5, 0.5)))


@pytest.mark.parametrize("clipped", [(True, False), (False, True)])
def test_answers_that_are_clipped_in_part_are_no_matrix(clipped):
    with pytest.raises(UserError, match="clips some answers only"):
        CoefficientMatrix.of(trace_walk(walk(symbol(), clipped), LEVELS[0]))


@pytest.mark.parametrize(("clipped", "clip"), [((True, True), 1.0), ((False, False), None)])
def test_a_matrix_clips_as_its_program_does(clipped, clip):
    assert CoefficientMatrix.of(trace_walk(walk(symbol(), clipped), LEVELS[0])).clip == clip


def test_a_program_with_cached_features_is_no_matrix():
    program = hasten.trace("solver=ddim,steps=4,levers=[deep(every=2)]", "ddpm")
    with pytest.raises(UserError, match="variants of a network is no matrix"):
        CoefficientMatrix.of(program)
