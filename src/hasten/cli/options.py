"""What several commands take, and the models and plans that they name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import cyclopts

if TYPE_CHECKING:
    from hasten.core.model import Model
    from hasten.core.plan import Plan

Parameter = cyclopts.Parameter

ModelName = Annotated[str, Parameter(help="builtin:NAME, a diffusers folder, or a hub id.")]
PlanText = Annotated[
    str | None,
    Parameter(name="--plan", help="a plan file, or key=value,...; the model's own by default."),
]
OwnPlan = Annotated[str | None, Parameter(name="--plan")]  # a verb's docstring says what it is
Prompts = Annotated[
    Path | None,
    Parameter(help="a text file with a prompt per line, for a text-to-image pipeline."),
]
Device = Annotated[str, Parameter(help="cpu, cuda, cuda:1, mps.")]
Minutes = Annotated[float | None, Parameter(help="a time budget.")]
Flag = Annotated[bool, Parameter(negative="")]
Json = Annotated[bool, Parameter(name="--json", negative="", help="print JSON.")]
Quiet = Annotated[bool, Parameter(name="--quiet", negative="", help="no progress on stderr.")]


def model_of(name: str, prompts: Path | None = None, device: str = "cpu") -> Model:
    """The model that a command names.

    Raises:
        UserError: there is no such model, or the file of prompts cannot be read.
    """
    from hasten.adapters.load import load
    from hasten.core.files import read_lines

    texts = None if prompts is None else read_lines("prompts", prompts)
    return load(name, prompts=texts, device=device)


def plan_of(text: str | None) -> Plan | None:
    """The plan that a command names; None stands for the model's own."""
    from hasten.core.plan import Plan

    return None if text is None else Plan.read(text)
