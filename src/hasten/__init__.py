"""hasten makes a trained diffusion model generate fast, and measures what that costs.

Load a model, find the best plan for it on this device, and sample::

    import hasten

    model = hasten.load("builtin:mnist")  # or a diffusers folder, a hub id, a pipeline, a module
    best = hasten.tune(model, minutes=5).best
    sampler = hasten.build(model, best)
    pictures = sampler(16, seed=0)  # a tensor (n, c, h, w) in [0, 1]
    images = sampler.pil(16, seed=0)  # PIL images

A *plan* is one choice of everything (solver, grid, steps, engine, dtype, ...). It is a
``hasten.Plan``, a plan file such as ``hasten tune`` writes, the text
``"solver=unipc(order=3),steps=8"``, or a dict of its fields.

====================  ==========================================================================
load                  a model from a folder, the hub, a pipeline or a module
tune                  find the best plan for a model on this device
tune_edit             find the fastest way of making an edit that is as good
apply, undo           a plan on a diffusers pipeline, and the pipeline as it was
build, Sampler        a model and a plan, ready to make pictures
measure, Report       what a plan costs and how good its pictures are
likelihood            bits per dimension of pictures under a model
edit                  pictures changed to show something else
invert                the noise that a picture comes from
export                a model and a plan for another runtime
trace, run, Program   a solver as a table of numbers, and how to run one
ProgramScheduler      a Program as a diffusers scheduler
freeze                fixed steps for a plan whose solver chooses its own
schedule, prediction  noise schedules and prediction types by name
media                 PNG files, grids and GIFs
====================  ==========================================================================
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from hasten import media
    from hasten.adapters.load import load
    from hasten.adapters.pipeline_cache import cache_
    from hasten.adapters.scheduler import ProgramScheduler
    from hasten.adapters.schedules import prediction, schedule
    from hasten.applying import apply, undo
    from hasten.core.errors import HastenError, NonFiniteError, TracingError, UserError
    from hasten.core.level import Level
    from hasten.core.model import Model
    from hasten.core.plan import Plan
    from hasten.core.program import Program
    from hasten.core.report import Report
    from hasten.editing.edit import edit
    from hasten.editing.invert import invert
    from hasten.exporting.export import export
    from hasten.learning.programs.freeze import freeze
    from hasten.measuring.likelihood import likelihood
    from hasten.measuring.measure import measure
    from hasten.sampling import Sampler, build, run, trace
    from hasten.tuning.tune import tune
    from hasten.tuning.tune_edit import tune_edit

_HOMES = {
    "load": "hasten.adapters.load",
    "ProgramScheduler": "hasten.adapters.scheduler",
    "Sampler": "hasten.sampling",
    "apply": "hasten.applying",
    "build": "hasten.sampling",
    "cache_": "hasten.adapters.pipeline_cache",
    "run": "hasten.sampling",
    "trace": "hasten.sampling",
    "undo": "hasten.applying",
    "HastenError": "hasten.core.errors",
    "NonFiniteError": "hasten.core.errors",
    "TracingError": "hasten.core.errors",
    "UserError": "hasten.core.errors",
    "Level": "hasten.core.level",
    "schedule": "hasten.adapters.schedules",
    "Model": "hasten.core.model",
    "Plan": "hasten.core.plan",
    "prediction": "hasten.adapters.schedules",
    "Program": "hasten.core.program",
    "Report": "hasten.core.report",
    "export": "hasten.exporting.export",
    "freeze": "hasten.learning.programs.freeze",
    "edit": "hasten.editing.edit",
    "invert": "hasten.editing.invert",
    "likelihood": "hasten.measuring.likelihood",
    "measure": "hasten.measuring.measure",
    "tune": "hasten.tuning.tune",
    "tune_edit": "hasten.tuning.tune_edit",
}

__all__ = [
    "HastenError",
    "Level",
    "Model",
    "NonFiniteError",
    "Plan",
    "Program",
    "ProgramScheduler",
    "Report",
    "Sampler",
    "TracingError",
    "UserError",
    "apply",
    "build",
    "cache_",
    "edit",
    "export",
    "freeze",
    "invert",
    "likelihood",
    "load",
    "measure",
    "media",
    "prediction",
    "run",
    "schedule",
    "trace",
    "tune",
    "tune_edit",
    "undo",
]


def __getattr__(name: str) -> Any:
    # Names are imported when they are first used, so that `hasten --help` does not wait for torch.
    if name == "media":
        return importlib.import_module("hasten.media")
    if name not in _HOMES:
        raise AttributeError(f"module 'hasten' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
