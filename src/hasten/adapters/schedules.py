"""What the schedulers of diffusers say of a model: its noise schedule and its prediction.

A setting that changes how noise was added, or what time the network hears, is honoured or refused;
one that only chooses among the levels (spacing, Karras sigmas, a shift by resolution) is for grids.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

import numpy as np

from hasten.core.errors import require, require_choice, require_whole
from hasten.core.files import JsonObject
from hasten.core.level import Array
from hasten.core.noise_schedule import EDM, Discrete, Flow, NoiseSchedule, zero_terminal
from hasten.core.noise_schedule import schedule as core_schedule
from hasten.core.prediction import Prediction
from hasten.core.prediction import prediction as core_prediction

if TYPE_CHECKING:
    from typing_extensions import TypeIs

SchedulerConfig = JsonObject
"""The settings of a scheduler of diffusers, as ``scheduler_config.json`` has them."""
PREDICTIONS = {"sample": "x0", "v_prediction": "v", "flow_prediction": "flow"}
BETAS = ("linear", "scaled_linear", "squaredcos_cap_v2")
GIVE = "give schedule= and prediction="
OWN_TIMES = ("IPNDMScheduler",)
"""Schedulers whose times are no index of a table of betas, though their config looks like one."""
SPACED = ("beta_schedule", "trained_betas", "beta_start")
"""Options that say a scheduler has a table of betas."""


class Scheduler(Protocol):
    """A live scheduler of diffusers."""

    @property
    def config(self) -> Mapping[str, object]: ...


ScheduleLike = str | JsonObject | NoiseSchedule | Scheduler


def schedule(source: ScheduleLike) -> NoiseSchedule:
    """A NoiseSchedule from a name (``"vp-linear"``, ``"flow(shift=3.0)"``, ``"ddpm"``), a dict as
    :meth:`NoiseSchedule.config` gives it, a scheduler of diffusers (``pipe.scheduler``), or the
    dict of its ``scheduler_config.json``.

    Raises:
        UserError: an unknown name or option; a scheduler that does not say how noise was added, or
            says so in a way that hasten does not know.
    """
    if is_scheduler(source) or (isinstance(source, Mapping) and "name" not in source):
        return read_schedule(config_of(source), "schedule")
    return core_schedule(source)


def prediction(source: str | Prediction) -> Prediction:
    """A Prediction from its name: ``epsilon``, ``v``, ``x0``, ``flow``, ``edm(sigma_data=0.5)``, or
    diffusers' ``sample``, ``v_prediction``, ``flow_prediction``."""
    name = PREDICTIONS.get(source, source) if isinstance(source, str) else source
    return core_prediction(name)


def is_scheduler(source: object) -> TypeIs[Scheduler]:
    """Whether ``source`` is a live scheduler of diffusers."""
    return hasattr(source, "config") and hasattr(source, "set_timesteps")


def config_of(source: Scheduler | Mapping[str, object]) -> SchedulerConfig:
    """The settings of a live scheduler, or the settings themselves, with the class they are of.

    A scheduler that runs a Program stands in for another one, and that one's settings are given.

    Raises:
        UserError: nothing says of which class they are, or which scheduler a Program replaced.
    """
    config: SchedulerConfig = dict(source.config if is_scheduler(source) else source)
    if is_scheduler(source):
        config["_class_name"] = type(source).__name__
    if "program" in config:
        require(
            isinstance(config.get("like"), Mapping),
            "this ProgramScheduler does not say which scheduler it replaced, so not how noise was "
            f"added; make it with ProgramScheduler(program, like=pipe.scheduler), or {GIVE}.",
        )
        return config_of(config["like"])
    config.pop("name", None)
    return config


def read_schedule(config: SchedulerConfig, where: str) -> NoiseSchedule:
    """How noise was added, from the settings of a scheduler; ``where`` they are, for an error.

    Raises:
        UserError: they do not say, or say it in a way that hasten does not know.
    """
    kind = str(config.get("_class_name", ""))
    if _is_flow(config):
        return _flow(config, where)
    require(
        kind not in OWN_TIMES,
        f"{where}: {kind} has a time of its own, which hasten does not know; {GIVE}.",
    )
    if kind.startswith("EDM"):
        low, high = config.get("sigma_min", 0.002), config.get("sigma_max", 80.0)
        return EDM(sigma_min=float(low), sigma_max=float(high))
    require(
        any(key in config for key in SPACED),
        f"{where}: {kind or 'a scheduler config without _class_name'} does not say how noise was "
        f"added in a way hasten knows; give the scheduler itself (pipe.scheduler), or {GIVE}.",
    )
    spacing = config.get("timestep_type", "discrete")
    require(
        spacing == "discrete",
        f"{where}: timestep_type {spacing!r} tells the network log(sigma) / 4 in place of an "
        f"index, which is not supported; {GIVE}, such as 'edm' and 'edm'.",
    )
    return Discrete(alphas_cumprod=tuple(_alphas_cumprod(config).tolist()))


def read_prediction(config: SchedulerConfig, where: str) -> Prediction:
    """What the network predicts, from the settings of a scheduler.

    Raises:
        UserError: a kind that hasten does not know.
    """
    kind = str(config.get("_class_name", ""))
    named = config.get("prediction_type", "epsilon")
    if "FlowMatch" in kind:
        return prediction("flow")
    if kind.startswith("EDM"):
        require(
            named == "epsilon",
            f"{where}: {kind} with prediction_type {named!r} is not supported; give prediction=.",
        )
        return prediction(f"edm(sigma_data={float(config.get('sigma_data', 0.5))})")
    require(isinstance(named, str), f"{where}: prediction_type is {named!r}; it takes a name.")
    return prediction("flow" if _is_flow(config) else named)


def _is_flow(config: SchedulerConfig) -> bool:
    kind = str(config.get("_class_name", ""))
    return "FlowMatch" in kind or config.get("prediction_type") == "flow_prediction"


def _flow(config: SchedulerConfig, where: str) -> Flow:
    count = config.get("num_train_timesteps", 1000)
    require(
        count == 1000,
        f"{where}: a flow model with num_train_timesteps {count!r} hears {count!r} * sigma, and "
        f"hasten's 'flow' says 1000 * sigma; {GIVE}.",
    )
    require(
        not config.get("invert_sigmas"),
        f"{where}: invert_sigmas runs time backwards, which hasten does not know; {GIVE}.",
    )
    return Flow(shift=float(config.get("shift", config.get("flow_shift", 1.0)) or 1.0))


def betas(schedule: str, count: int, start: float, end: float) -> Array:
    """The beta schedules ``linear``, ``scaled_linear`` and ``squaredcos_cap_v2``, in float64.

    Raises:
        UserError: another schedule.
    """
    require_choice("scheduler_config.json beta_schedule", schedule, BETAS)
    if schedule == "linear":
        return np.linspace(start, end, count)
    if schedule == "scaled_linear":
        return np.linspace(math.sqrt(start), math.sqrt(end), count) ** 2
    edges = np.cos((np.arange(count + 1) / count + 0.008) / 1.008 * np.pi / 2) ** 2
    return np.minimum(1 - edges[1:] / edges[:-1], 0.999)


def _alphas_cumprod(config: SchedulerConfig) -> Array:
    """alphas_cumprod of a table of betas, as diffusers makes it from the same settings."""
    name = "scheduler_config.json"
    if config.get("trained_betas") is not None:
        values = np.asarray(config["trained_betas"], np.float64)
    else:
        kind, count = config.get("beta_schedule", "linear"), config.get("num_train_timesteps", 1000)
        require_whole(f"{name} num_train_timesteps", count, 2, 100_000)
        values = betas(kind, count, config.get("beta_start", 1e-4), config.get("beta_end", 0.02))
    table: Array = np.cumprod(1.0 - values, dtype=np.float64)
    shift = config.get("snr_shift_scale")  # CogVideoX, 2408.06072, section 2.4
    if shift:
        table = table / (float(shift) + (1 - float(shift)) * table)
    zero = bool(config.get("rescale_betas_zero_snr", False))
    return zero_terminal(table) if zero else table
