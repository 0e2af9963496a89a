"""The files that a plan names: programs, students, calibrations, starts."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TypeVar

from hasten.core.artifact import BUILTIN, HUB
from hasten.core.errors import require
from hasten.core.lever import Lever, levers
from hasten.core.parts import parsed_levers
from hasten.core.plan import Plan
from hasten.core.start import Start, starts

NAMING = ("file", "folder", "source")  # options of parts that name a file; a source may be a hub id
PartT = TypeVar("PartT", Lever, Start)
EVERYWHERE = (BUILTIN, HUB, "offered:")  # how names begin that are no paths


def renamed(plan: Plan, new: Callable[[str, str], str]) -> Plan:
    """``plan`` with ``new(option, name)`` for every path that it names; what ships with hasten or
    lies on the hub keeps its name. Reads no file.

    Raises:
        UserError: a plan within the plan names a file.
    """

    def other(option: str, name: str) -> str:
        return name if name.startswith(EVERYWHERE) else new(option, name)

    changes: dict[str, object] = {}
    if plan.program is not None:
        changes["program"] = other("program", plan.program)
    parts = [_part(lever, other) for lever in parsed_levers(plan.levers)]
    if parts:
        changes["levers"] = tuple(levers.text(part) for part in parts)
    if plan.start is not None:
        changes["start"] = starts.text(_part(starts.parse(plan.start), other))
    return plan.model_copy(update=changes) if changes else plan


def files_of(plan: Plan) -> list[str]:
    """The paths that ``plan`` names; those of what ships with hasten or lies on the hub are none.

    Raises:
        UserError: a plan within the plan names a file.
    """
    found: list[str] = []

    def note(_: str, name: str) -> str:
        found.append(name)
        return name

    renamed(plan, note)
    return found


def _part(part: PartT, other: Callable[[str, str], str]) -> PartT:
    inner = getattr(part, "plan", None)
    if isinstance(inner, str):
        require(
            not files_of(Plan.read(inner)),
            f"start {part.part_name!r} has a plan of its own that names a file, which cannot be "
            "shared; drop that.",
        )
    names = {
        field.name: other(field.name, value)
        for field in dataclasses.fields(part)  # type: ignore[arg-type]
        if field.name in NAMING and isinstance(value := getattr(part, field.name), str)
    }
    return dataclasses.replace(part, **names) if names else part  # type: ignore[type-var]
