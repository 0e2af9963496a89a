"""A Plan: one choice of everything, as data."""

from __future__ import annotations

import functools
import hashlib
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path as File
from typing import Annotated, Any, Literal

import pydantic
import yaml

from hasten.core.artifact import HUB, on_hub
from hasten.core.errors import UserError
from hasten.core.files import TEXT, write_text
from hasten.core.level import Level
from hasten.core.lever import Lever, Trait, check_traits, levers
from hasten.core.noise_schedule import NoiseSchedule
from hasten.core.parts import DECIDED, DEFAULTS, REGISTRIES, Parts, decided_by, parsed_levers
from hasten.core.plan_upgrade import VERSION, upgraded
from hasten.core.program import Program
from hasten.core.settings import Settings

START = ("start", DEFAULTS["start"])
NULLS = ("", "~", "null")  # how text says None


class Plan(Settings):
    """How to sample. Every field has a default; unknown or conflicting fields raise.

    Validating a plan reads no file: what a learned program or a student decides is None here, and
    known once :attr:`parts` are asked for.

    Attributes:
        solver, grid, executor, start, engine: parts, ``name`` or ``name(option=value, ...)``.
        steps: intervals between levels, 1 to 10000.
        clip: x0 is held in [-clip, clip] after every evaluation; None leaves it alone.
        program: a file that ``hasten learn program`` wrote; it decides solver, grid, steps and
            clip, which must not be given then.
        levers: parts that make evaluations cheaper, ``name(option=value, ...)`` each: students,
            feature caches, fewer bits and so on.
        guidance: classifier-free guidance scale; 1 is none.
        guidance_interval: guidance only where low < sigma / alpha <= high (2404.07724); the null
            branch is skipped elsewhere. None is everywhere.
        dtype: what the network computes in; the state is always float32.
        other_weights: whether what was learned for other weights may be used all the same.
        device: the kind of device the plan was measured on, where it holds there alone; None for
            any.
    """

    solver: str | None = None
    grid: str | None = None
    steps: Annotated[int, pydantic.Field(ge=1, le=10_000, strict=True)] | None = None
    program: str | None = None
    levers: tuple[str, ...] = ()
    executor: str = "sequential"
    start: str | None = None
    guidance: Annotated[float, pydantic.Field(ge=0, le=100, allow_inf_nan=False)] = 1.0
    guidance_interval: tuple[float, float] | None = None
    clip: Annotated[float, pydantic.Field(gt=0, le=1e6, allow_inf_nan=False)] | None = None
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    engine: str = "eager"
    other_weights: bool = False
    device: Literal["cpu", "cuda", "mps", "xpu"] | None = None

    @pydantic.field_validator(*REGISTRIES)
    @classmethod
    def _canonical(cls, text: str | None, info: pydantic.ValidationInfo) -> str | None:
        return None if text is None else REGISTRIES[str(info.field_name)].canonical(text)

    @pydantic.field_validator("levers", mode="before")
    @classmethod
    def _canonical_levers(cls, value: object) -> tuple[str, ...]:
        parts = parsed_levers(tuple(_listed(value)))
        return tuple(levers.text(part) for part in parts)

    @pydantic.field_validator("guidance_interval", mode="before")
    @classmethod
    def _two_ratios(cls, value: object) -> object:
        return _read_interval(value)

    @pydantic.model_validator(mode="before")
    @classmethod
    def _defaults(cls, fields: object) -> object:
        """Fills in solver, grid, steps and start, unless a program or a lever decides them."""
        if not isinstance(fields, dict):
            return fields
        if fields.get("program") is not None:
            return {**fields, "start": fields.get("start") or DEFAULTS["start"]}
        named = any(fields.get(name) is not None for name in DECIDED)
        if not named and any(
            part.decides for part in parsed_levers(tuple(_listed(fields.get("levers"))))
        ):
            return fields
        return {**fields, **{k: v for k, v in DEFAULTS.items() if fields.get(k) is None}}

    @pydantic.model_validator(mode="after")
    def _fields_fit(self) -> Plan:
        if self.guidance_interval is not None and self.guidance == 1.0:
            raise ValueError("guidance_interval narrows guidance, which is 1; set it, or drop both")
        if self.program is not None:
            for name in DECIDED:
                if getattr(self, name) is not None:
                    raise ValueError(f"program {self.program!r} decides {name}; drop {name}")
        executor, engine = (REGISTRIES[n].parse(getattr(self, n)) for n in ("executor", "engine"))
        check_traits(parsed_levers(self.levers), executor, engine)
        return self

    @functools.cached_property
    def parts(self) -> Parts:
        """What the plan's text names, parsed once; reads the files of what decides for others.

        Raises:
            UserError: a file that cannot be read, parts that exclude each other.
        """
        return Parts.of(self.model_dump())

    def guidance_at(self, level: Level) -> float:
        """The guidance scale at ``level``: 1 outside the interval."""
        low, high = self.guidance_interval or (-1.0, math.inf)
        return self.guidance if low < level.ratio <= high else 1.0

    @property
    def key(self) -> str:
        """Twelve hex digits that stand for the plan."""
        body = json.dumps(self.model_dump(), sort_keys=True)
        return hashlib.sha256(body.encode()).hexdigest()[:12]

    @property
    def stochastic(self) -> bool:
        """Whether the plan draws noise on the way."""
        return self.parts.stochastic

    def levels(self, schedule: NoiseSchedule) -> tuple[Level, ...]:
        """The levels the plan visits on ``schedule``."""
        return self.parts.levels(schedule)

    def trace(self, schedule: NoiseSchedule) -> Program:
        """The plan's Program on ``schedule``."""
        return self.parts.trace(schedule)

    def model_copy(self, *, update: Mapping[str, object] | None = None, deep: bool = False) -> Plan:
        """The plan with other fields, checked as a new one is; nothing that was derived from the
        old fields is kept."""
        return type(self)(**{**self.model_dump(), **(update or {})})

    def has(self, trait: Trait) -> bool:
        """Whether a lever of the plan has ``trait``."""
        return any(trait in lever.traits for lever in parsed_levers(self.levers))

    def with_lever(self, lever: Lever | str) -> Plan:
        """The plan with one more lever."""
        text = lever if isinstance(lever, str) else levers.text(lever)
        return self.model_copy(update={"levers": (*self.levers, text)})

    def decided(self) -> Plan:
        """The plan with what its levers decide written out; reads their files."""
        if self.solver is not None or self.program is not None:
            return self
        decided = decided_by(parsed_levers(self.levers))
        fields = {name: decided[name] for name in (*DECIDED, "start")}
        mine = {name: getattr(self, name) for name in fields if getattr(self, name) is not None}
        return self.model_copy(update={**fields, **mine})

    def lever(self, name: str) -> Lever | None:
        """The plan's lever of this name, None where it has none."""
        return next((part for part in parsed_levers(self.levers) if part.part_name == name), None)

    def chosen(self) -> dict[str, object]:
        """Solver, grid and steps where the plan gives them, and every other field that is not as it
        is by default."""
        fields = type(self).model_fields
        return {
            name: list(value) if name == "levers" else value
            for name, value in self.model_dump().items()
            if value is not None and value != fields[name].default and (name, value) != START
        }

    def __str__(self) -> str:
        return ",".join(f"{name}={_text(value)}" for name, value in self.chosen().items())

    @staticmethod
    def of(fields: Mapping[str, object]) -> Plan:
        """The plan of fields as a file has them, of this version or an older one."""
        return Plan(**upgraded({str(key): value for key, value in fields.items()}))

    @staticmethod
    def read(text: str | File) -> Plan:
        """The plan in a JSON or YAML file, in the text ``key=value,...``, or on the hub, as
        ``hub:owner/name``.

        Raises:
            UserError: none of these, or a field that is wrong.
        """
        text = str(text)
        if text.startswith(HUB):
            plan = on_hub("read_plan", text)
            assert isinstance(plan, Plan)
            return plan
        if re.match(r"\s*\w+\s*=", text):
            return Plan(**upgraded(_pairs(text), filed=False))
        try:
            body = yaml.safe_load(File(text).read_text(encoding=TEXT))
        except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
            raise UserError(
                f"plan {text!r} is no file that can be read, nor key=value,... "
                f"({type(error).__name__})."
            ) from error
        if not isinstance(body, dict):
            raise UserError(f"plan file {text!r} holds no fields; see `hasten tune`.")
        return Plan.of(body)

    def write(self, file: str | File) -> None:
        """Write the plan as JSON."""
        body = {"version": VERSION, **self.model_dump()}
        write_text(File(file), json.dumps(body, indent=1) + "\n")


PlanLike = Plan | str | File | Mapping[str, object]


def as_plan(plan: PlanLike | None, default: Mapping[str, object] | None = None) -> Plan:
    """A Plan from a Plan, a file, the text ``key=value,...``, or a mapping of fields; from the
    fields ``default`` where None is given.

    Raises:
        UserError: it is none of these, or a field is wrong.
    """
    if isinstance(plan, Plan):
        return plan
    if plan is None:
        return Plan.of(default or {})
    if isinstance(plan, (str, File)):
        return Plan.read(plan)
    if not isinstance(plan, Mapping):
        raise UserError(
            f"plan is a {type(plan).__name__}; give a hasten.Plan, the text 'key=value,...', a "
            "file, or a dict of fields."
        )
    return Plan(**upgraded({str(key): value for key, value in plan.items()}, filed=False))


def _listed(value: object) -> list[Any]:
    """Levers from a list, or from a text such as ``[deep(every=2), merge(share=0.5)]``."""
    if value is None:
        return []
    if isinstance(value, str):
        text = value.strip()
        if text.startswith("[") and text.endswith("]"):
            text = text[1:-1]
        return [piece.strip() for piece in _pieces(text) if piece.strip()]
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _text(value: object) -> str:
    if isinstance(value, list):
        return f"[{', '.join(value)}]"
    if isinstance(value, str) and _read(value) != value:
        return "'" + value.replace("'", "''") + "'"
    return str(value)


def _read(text: str) -> object:
    """The value that ``text`` is in ``key=value,...``; None where it is not one."""
    if len(_pieces(text)) > 1:
        return None
    text = text.strip()
    try:
        return text if "(" in text and text[:1] not in ("'", '"') else yaml.safe_load(text)
    except yaml.YAMLError:
        return None


def _read_interval(value: object) -> object:
    """``(low, high)`` from text or a list; low below high, infinity allowed for high."""
    if isinstance(value, str):
        value = value.strip().strip("([])").split(",")
    if isinstance(value, (list, tuple)):
        try:
            value = [float(entry) for entry in value]  # a file may hold the text "Infinity"
        except (TypeError, ValueError):
            raise ValueError(f"{value!r} is no interval; write (low, high)") from None
    if value is not None:
        pair = value if isinstance(value, (list, tuple)) and len(value) == 2 else None
        if pair is None or not 0 <= pair[0] < pair[1]:
            raise ValueError(f"{value!r} is no interval (low, high) with 0 <= low < high")
    return value


def _pairs(text: str) -> dict[str, object]:
    out: dict[str, object] = {}
    for piece in _pieces(text):
        name, equals, value = piece.partition("=")
        name = name.strip()
        if not equals or not name:
            raise UserError(f"plan text {text!r}: {piece.strip()!r} is no key=value.")
        if name in out:
            raise UserError(f"plan text {text!r} gives {name!r} twice.")
        out[name] = _read(value)
        if out[name] is None and value.strip().lower() not in NULLS:
            raise UserError(f"plan text {text!r}: {value.strip()!r} cannot be read.")
    return out


def _pieces(text: str) -> list[str]:
    """``text`` cut at its commas, except those within parentheses or quotes."""
    out, depth, quote = [""], 0, ""
    for letter in text:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"":
            quote = letter
        else:
            depth += (letter in "([") - (letter in ")]")
        if letter == "," and depth <= 0 and not quote:
            out.append("")
        else:
            out[-1] += letter
    return out
