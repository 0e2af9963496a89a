"""Lowering: a Program over x0 becomes one over raw network outputs.

x0-from-network, input scaling and guidance are linear, so they fold into the table; a runtime then
needs the network, weighted sums, and nothing of hasten.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hasten.core.ask import Combine, Denoise, Network
from hasten.core.errors import UserError
from hasten.core.level import Level
from hasten.core.linear import Linear
from hasten.core.prediction import Prediction
from hasten.core.program import Program, Walk, symbol, trace_walk

Scale = float | Callable[[Level], float]


def lower(program: Program, prediction: Prediction, guidance: Scale = 1.0) -> Program:
    """``program`` with every Denoise replaced by the network calls and sums it stands for.

    Args:
        guidance: the scale, or the scale at a level; where it is 1 no null branch is asked.

    Raises:
        UserError: the program needs a learned variance, which no raw output alone gives.
    """
    start = symbol()
    return trace_walk(_walk(program, prediction, guidance, start), start, program.start)


def _walk(program: Program, prediction: Prediction, guidance: Scale, x: Linear) -> Walk:
    values: dict[str, Linear] = {"x": x}
    for row, dead in zip(program.rows, program.frees, strict=True):
        ask, given = row.ask, tuple(values[name] for name in row.ask.reads())
        answers: tuple[Any, ...]
        if isinstance(ask, Combine):
            pairs = zip(ask.coefficients, given, strict=True)
            answers = (sum(coefficient * value for coefficient, value in pairs),)
        elif isinstance(ask, Denoise):
            scale = guidance(ask.level) if callable(guidance) else guidance
            answers = ((yield from _denoise(given[0], ask, prediction, scale)),)
        elif ask.op == "denoise_with_variance":
            raise UserError("a program with a learned variance cannot be lowered; export ddim.")
        else:
            answers = ((yield ask.with_latents(given)),)
        values.update(zip(row.out, answers, strict=True))
        for name in dead:
            del values[name]
    return values[program.output]


def _denoise(x: Linear, ask: Denoise, prediction: Prediction, guidance: float) -> Walk:
    here = prediction.at(ask.level)
    seen = x if here.scale == 1.0 else here.scale * x
    answer = yield Network(seen, ask.level.t, reuse=ask.reuse)
    if guidance != 1.0:
        null = yield Network(seen, ask.level.t, "null", reuse=ask.reuse)
        answer = guidance * answer + (1 - guidance) * null
    return here.skip * x + here.out * answer
