"""hasten makes a trained diffusion model generate fast, and measures what that costs."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from hasten.adapters.load import load
    from hasten.adapters.pipeline_cache import reuse_
    from hasten.adapters.scheduler import ProgramScheduler
    from hasten.adapters.schedules import prediction, schedule
    from hasten.core.errors import HastenError, NonFiniteError, TracingError, UserError
    from hasten.core.level import Level
    from hasten.core.model import Model
    from hasten.core.plan import Plan
    from hasten.core.program import Program
    from hasten.core.report import Report
    from hasten.editing.invert import invert
    from hasten.exporting.export import export
    from hasten.learning.programs.freeze import freeze
    from hasten.measuring.likelihood import likelihood
    from hasten.measuring.measure import measure
    from hasten.sampling import Sampler, build, run, trace
    from hasten.tuning.tune import tune

_HOMES = {
    "load": "hasten.adapters.load",
    "ProgramScheduler": "hasten.adapters.scheduler",
    "Sampler": "hasten.sampling",
    "build": "hasten.sampling",
    "reuse_": "hasten.adapters.pipeline_cache",
    "run": "hasten.sampling",
    "trace": "hasten.sampling",
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
    "invert": "hasten.editing.invert",
    "likelihood": "hasten.measuring.likelihood",
    "measure": "hasten.measuring.measure",
    "tune": "hasten.tuning.tune",
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
    "build",
    "export",
    "freeze",
    "invert",
    "likelihood",
    "load",
    "measure",
    "prediction",
    "reuse_",
    "run",
    "schedule",
    "trace",
    "tune",
]


def __getattr__(name: str) -> Any:
    # Names are imported when they are first used, so that `hasten --help` does not wait for torch.
    if name not in _HOMES:
        raise AttributeError(f"module 'hasten' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
