"""What several commands take, and the model that they name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import cyclopts

if TYPE_CHECKING:
    from hasten.core.model import Model

Parameter = cyclopts.Parameter
Json = Annotated[bool, Parameter(name="--json", negative="")]
PlanText = Annotated[str | None, Parameter(name="--plan")]
Prompts = Annotated[
    Path | None,
    Parameter(
        help="a text file with a prompt a line, for a text-to-image pipeline: they are its labels."
    ),
]
Quiet = Annotated[bool, Parameter(name="--quiet", negative="")]


def named(model: str, prompts: Path | None = None, device: str = "cpu") -> Model:
    """The model that a command names.

    Raises:
        UserError: there is none, or no prompt.
    """
    from hasten.adapters.load import load
    from hasten.core.files import read_lines

    words = None if prompts is None else read_lines("prompts", prompts)
    return load(model, prompts=words, device=device)
