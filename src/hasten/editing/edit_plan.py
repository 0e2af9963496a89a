"""An EditPlan: how an edit is made, as data that a file can hold."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import pydantic

from hasten.core.errors import UserError, require
from hasten.core.files import read_json, write_text
from hasten.core.plan import Plan
from hasten.core.plan_upgrade import VERSION as PLAN_VERSION
from hasten.core.settings import Settings
from hasten.editing.method import methods
from hasten.editing.stream import Streaming

VERSION = 1
Frames = Annotated[int, pydantic.Field(ge=1, le=1 << 16, strict=True)]


class EditPlan(Settings):
    """A method of editing, how frames share the network, and the plan that it runs on.

    Attributes:
        method: ``name`` or ``name(option=value, ...)``; see ``hasten.editing.methods``.
        every, similar, depth: as :class:`hasten.editing.stream.Streaming` has them; a picture is a
            clip of one frame, for which they change nothing.
        plan: solver, grid, steps, guidance, engine and levers; None for the model's own.
    """

    method: str = "flowedit"
    every: Frames = Streaming.every
    similar: Annotated[float, pydantic.Field(ge=0, le=1)] = Streaming.similar
    depth: Frames = Streaming.depth
    plan: Plan | None = None

    @pydantic.field_validator("method")
    @classmethod
    def _canonical(cls, text: str) -> str:
        return methods.canonical(text)

    @pydantic.field_validator("plan", mode="before")
    @classmethod
    def _read_plan(cls, value: object) -> object:
        return Plan.of(value) if isinstance(value, Mapping) else value

    @property
    def streaming(self) -> Streaming:
        """How the frames of a clip are driven."""
        return Streaming(every=self.every, similar=self.similar, depth=self.depth)

    def with_fields(self, **fields: object) -> EditPlan:
        """The same with other fields, checked as a new one is."""
        return EditPlan(**{**dict(self), **fields})

    @staticmethod
    def read(text: str | Path) -> EditPlan:
        """The edit plan in a JSON file; or any plan that :meth:`hasten.Plan.read` takes, with the
        default method.

        Raises:
            UserError: it is neither, of a later version, or a field is wrong.
        """
        try:
            body = read_json(Path(text))
        except UserError:  # no JSON file: a plan, written in one of its other ways
            body = None
        if not isinstance(body, dict) or not body.keys() & {"method", "plan"}:
            return EditPlan(plan=Plan.read(text))
        version = body.pop("version", VERSION)
        require(
            version == VERSION,
            f"edit plan {str(text)!r} is of version {version!r}, and this hasten reads version "
            f"{VERSION}; install a newer one, or tune again.",
        )
        return EditPlan(**{str(name): value for name, value in body.items()})

    def write(self, file: str | Path) -> None:
        """Write it as JSON, for ``hasten edit --plan``."""
        plan = None if self.plan is None else {"version": PLAN_VERSION, **self.plan.model_dump()}
        body = {"version": VERSION, **self.model_dump(exclude={"plan"}), "plan": plan}
        write_text(Path(file), json.dumps(body, indent=1) + "\n")

    def __str__(self) -> str:
        parts = dict(self.model_dump(exclude={"plan"}, exclude_defaults=True), method=self.method)
        words = [f"{name} {value}" for name, value in sorted(parts.items()) if name != "method"]
        plan = "the model's own plan" if self.plan is None else str(self.plan)
        return ", ".join([self.method, *words, plan])
