"""What :class:`hasten.adapters.scheduler.ProgramScheduler` is given, checked."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch

from hasten.adapters.schedules import (
    Scheduler,
    SchedulerConfig,
    config_of,
    is_scheduler,
    read_prediction,
)
from hasten.adapters.schedules import prediction as as_prediction
from hasten.core.errors import UserError, require
from hasten.core.level import Level
from hasten.core.prediction import Prediction
from hasten.core.program import START, Program


def as_program(program: Program | str | dict[str, object] | None) -> Program:
    if isinstance(program, Program):
        return program
    require(
        program is not None,
        "ProgramScheduler has no program; give the one that hasten.trace(plan, schedule) makes "
        "(the config of another scheduler does not hold one).",
    )
    return Program.from_json(program if isinstance(program, str) else json.dumps(program))


def predicted(
    prediction: str | Prediction | None, like: Scheduler | Mapping[str, object] | None
) -> tuple[Prediction, dict[str, object] | None]:
    """What the network predicts, and the settings of the scheduler that is replaced, as JSON."""
    if like is None:
        require(
            prediction is not None,
            "ProgramScheduler does not know what the pipeline's network predicts; give "
            "ProgramScheduler(program, like=pipe.scheduler), or prediction='epsilon' ('v', 'x0', "
            "'flow' or 'edm(sigma_data=0.5)').",
        )
        assert prediction is not None
        return as_prediction(prediction), None
    require(
        is_scheduler(like) or isinstance(like, Mapping),
        f"like is a {type(like).__name__}; give the scheduler that is replaced: pipe.scheduler.",
    )
    settings = dict(like.config if is_scheduler(like) else like)
    if prediction is None and "program" in settings:  # it replaced another one before
        prediction = str(settings["prediction"])
    if "program" in settings and settings.get("like") is None:
        return as_prediction(prediction or "epsilon"), None
    replaced = config_of(like)
    if prediction is None:
        return read_prediction(replaced, "like"), as_json(replaced)
    return as_prediction(prediction), as_json(replaced)


def as_json(config: SchedulerConfig) -> dict[str, object]:
    """``config`` without what JSON does not hold, with arrays as lists."""
    listed = {k: v.tolist() if hasattr(v, "tolist") else v for k, v in config.items()}
    plain = (str, int, float, bool, list, tuple, type(None))
    written = {key: value for key, value in listed.items() if isinstance(value, plain)}
    return {key: list(v) if isinstance(v, tuple) else v for key, v in written.items()}


def check_program(program: Program, calls: Sequence[int]) -> None:
    lowered = any(row.ask.op == "network" for row in program.rows)
    require(not lowered, "this program is lowered; give the one that hasten.trace made.")
    require(
        program.plain and program.inputs == (START,),
        "this program has variants of the network (cached features, say) or other inputs than the "
        "start, which a pipeline does not have; trace without levers.",
    )
    require(len(calls) > 0, "this program never asks the network; trace it on two levels or more.")
    first = program.rows[calls[0]].ask.reads()[0]
    require(
        first == START,
        f"this program first asks the network about {first!r}, not about its start; a diffusers "
        "pipeline cannot run that. Trace a solver that evaluates at its first level.",
    )


def sigmas_of(levels: Sequence[Level]) -> list[float]:
    """What diffusers calls sigmas: the noise itself on rectified flows, else sigma / alpha."""
    straight = all(abs(level.alpha + level.sigma - 1) < 1e-9 for level in levels)
    return [level.sigma if straight or level.alpha == 0 else level.ratio for level in levels]


def refuse_other(
    name: str, levels: torch.Tensor | Iterable[float] | None, allowed: list[list[float]]
) -> None:
    if levels is None:
        return
    values = levels.tolist() if isinstance(levels, torch.Tensor) else list(levels)
    same = [
        np.allclose(values, own, rtol=1e-4, atol=1e-4) for own in allowed if len(own) == len(values)
    ]
    if not any(same):
        raise UserError(
            f"{name} has {len(values)} values that are not this program's; the program's own "
            f"{len(allowed[0])} levels rule. Leave {name} out, or trace a program on these levels."
        )


def near(a: float, b: float) -> bool:
    return abs(a - b) <= 1e-4 * max(1.0, abs(b))
