"""Lowering: a Program over x0 becomes one over raw network outputs.

x0-from-network, input scaling and guidance are linear, so they fold into the table; a runtime then
needs the network, weighted sums, and nothing of hasten.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from hasten.core.ask import Ask, Denoise, Latent, Network
from hasten.core.condition import NULL
from hasten.core.errors import UserError
from hasten.core.level import Level
from hasten.core.linear import Linear
from hasten.core.prediction import Prediction
from hasten.core.program import Program, Walk, trace_walk
from hasten.core.stepping import asking

Scale = float | Callable[[Level], float]


def lower(program: Program, prediction: Prediction, guidance: Scale = 1.0) -> Program:
    """``program`` with every Denoise replaced by the network calls and sums it stands for.

    Args:
        guidance: the scale, or the scale at a level; where it is 1 no null branch is asked.

    Raises:
        UserError: the program needs a learned variance, which no raw output alone gives.
    """
    return trace_walk(_walk(program, prediction, guidance), program.start, program.inputs)


def _walk(program: Program, prediction: Prediction, guidance: Scale) -> Walk:
    def answer(ask: Ask, values: tuple[Latent, ...]) -> Walk:
        if ask.op == "denoise_with_variance":
            raise UserError("a program with a learned variance cannot be lowered; export ddim.")
        if not isinstance(ask, Denoise):
            return (yield ask.with_latents(values))
        scale = guidance(ask.level) if callable(guidance) else guidance
        return (yield from _denoise(values[0], ask, prediction, scale))

    return asking(program, answer)


def _denoise(x: Linear, ask: Denoise, prediction: Prediction, guidance: float) -> Walk:
    here = prediction.at(ask.level)
    seen = x if here.scale == 1.0 else here.scale * x
    plain = Network(seen, ask.level.t, variant=ask.variant, condition=ask.condition)
    output = yield plain
    if guidance != 1.0:
        null = yield dataclasses.replace(plain, branch=NULL)
        output = guidance * output + (1 - guidance) * null
    return here.skip * x + here.out * output
