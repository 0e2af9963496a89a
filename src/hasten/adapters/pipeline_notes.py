"""What lies beside a pipeline, or can be read off its call: prompts to ask it for, plans."""

from __future__ import annotations

import inspect
from pathlib import Path

from hasten.adapters.builtin import named_folder
from hasten.adapters.folder import INDEX
from hasten.adapters.untyped import Pipeline
from hasten.core.artifact import FACTS
from hasten.core.errors import require
from hasten.core.files import JsonObject, read_json, read_lines
from hasten.core.plan_upgrade import plans_of

PROMPTS = "prompts.txt"
SCALE = "guidance_scale"


def shipped_prompts(source: object) -> list[str] | None:
    """The prompts that lie beside a pipeline, one a line, which it is asked for where nobody asks
    for others; None where there are none."""
    if not isinstance(source, (str, Path)):
        return None
    text = str(source)
    file = (named_folder(text) or Path(text).expanduser()) / PROMPTS
    return read_lines("prompts", file) if file.is_file() else None


def reads_prompts(name: str) -> bool:
    """Whether the model that a command names is asked by prompts: any folder or hub id of a
    pipeline with a text encoder."""
    folder = named_folder(name) or Path(name).expanduser()
    index = folder / INDEX
    if not index.is_file():
        return not folder.is_dir()
    parts = read_json(index)
    return isinstance(parts, dict) and any("text_encoder" in part for part in parts)


def shipped_plans(folder: Path | None) -> tuple[JsonObject, ...]:
    """The fields of the plans in ``hasten.json`` beside a pipeline; none where there is no such
    file.

    Raises:
        UserError: it holds something else.
    """
    return plans_of(_facts(folder).get("plans", []))


def shipped_call(folder: Path) -> dict[str, int | float]:
    """The arguments of its call in ``hasten.json`` beside a pipeline, such as ``num_frames``.

    Raises:
        UserError: it holds something else than numbers.
    """
    call = _facts(folder).get("call", {})
    fits = isinstance(call, dict) and all(type(value) in (int, float) for value in call.values())
    require(fits, f"{folder / FACTS}: call is {call!r}; it takes numbers by name.")
    return dict(call)


def _facts(folder: Path | None) -> JsonObject:
    file = None if folder is None else folder / FACTS
    facts = read_json(file) if file is not None and file.is_file() else {}
    return facts if isinstance(facts, dict) else {}


def guided_as_called(pipe: Pipeline) -> tuple[JsonObject, ...]:
    """The plan with the guidance that the call of ``pipe`` has by default."""
    parameter = inspect.signature(type(pipe).__call__).parameters.get(SCALE)
    scale = None if parameter is None else parameter.default
    return ({"guidance": float(scale)},) if isinstance(scale, (int, float)) and scale > 1 else ()
