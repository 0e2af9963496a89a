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

from hasten.core.artifact import student_plans
from hasten.core.engine import engines
from hasten.core.errors import UserError
from hasten.core.executor import executors
from hasten.core.feature_cache import Reuse, check_reuse, reuses
from hasten.core.grid import grids
from hasten.core.learned_program import FIELD, LearnedProgram, Replayed
from hasten.core.level import Level
from hasten.core.noise_schedule import NoiseSchedule
from hasten.core.program import Program
from hasten.core.registry import Registry
from hasten.core.settings import Settings
from hasten.core.solver import Clipped, Solver, solvers, trace
from hasten.core.start import starts

PARTS: dict[str, Registry[Any]] = {
    "solver": solvers,
    "grid": grids,
    "executor": executors,
    "start": starts,
    "engine": engines,
    "reuse": reuses,
}
RULED = ("solver", "grid", "steps", "clip")  # what a learned program decides


class Plan(Settings):
    """How to sample. Every field has a default; unknown or conflicting fields raise.

    Attributes:
        solver, grid, executor, start, engine: parts, ``name`` or ``name(option=value, ...)``.
        steps: intervals between levels, 1 to 10000.
        program: a file that ``hasten learn program`` wrote; it rules solver, grid, steps and clip.
        student: a folder that ``hasten learn student`` wrote, whose network stands in for the
            model's; it brings solver, grid, steps and clip where none of them is given.
        quantize: a file that ``hasten learn quantize`` wrote for this plan: the network in few
            bits, with ranges that follow the step; or torchao:int8, torchao:int8-weights or
            torchao:fp8, which put the linear layers of any plan into few bits.
        small, small_at: another, smaller student (such as one that ``hasten learn prune`` wrote),
            and for each evaluation 1 where it runs and 0 where the network does.
        guidance: classifier-free guidance scale; 1 is none.
        guidance_interval: guidance only where low < sigma / alpha <= high (2404.07724); the null
            branch is skipped elsewhere. None is everywhere.
        reuse: which features of the network are reused, and when; None for none.
        merge: share of the tokens that are merged before the self-attention of a transformer's
            widest blocks, at most 0.75; None for none.
        clip: x0 is held in [-clip, clip] after every evaluation; None leaves it alone.
        dtype: what the network computes in; the state is always float32.
        engine: what runs the network.
        other_weights: whether what was learned for other weights may be used all the same.
        device: the kind of device the plan was measured on, where it holds there alone; None for
            any.
    """

    solver: str = "dpmpp(order=2)"
    grid: str = "log-snr"
    steps: Annotated[int, pydantic.Field(ge=1, le=10_000, strict=True)] = 10
    program: str | None = None
    student: str | None = None
    quantize: str | None = None
    small: str | None = None
    small_at: tuple[int, ...] | None = None
    executor: str = "sequential"
    start: str = "noise"
    guidance: Annotated[float, pydantic.Field(ge=0, le=100, allow_inf_nan=False)] = 1.0
    guidance_interval: tuple[float, float] | None = None
    reuse: str | None = None
    merge: Annotated[float, pydantic.Field(gt=0, le=0.75, allow_inf_nan=False)] | None = None
    clip: Annotated[float, pydantic.Field(gt=0, le=1e6, allow_inf_nan=False)] | None = None
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    engine: str = "eager"
    other_weights: bool = False
    device: Literal["cpu", "cuda", "mps", "xpu"] | None = None

    @pydantic.model_validator(mode="before")
    @classmethod
    def _as_the_student(cls, given: Any) -> Any:
        student = given.get("student") if isinstance(given, dict) else None
        if isinstance(student, str) and not {*RULED, "program"} & set(given):
            return {**student_plans(student)[0], **given}
        return given

    @pydantic.field_validator(*PARTS)
    @classmethod
    def _canonical(cls, text: str | None, info: pydantic.ValidationInfo) -> str | None:
        return None if text is None else PARTS[str(info.field_name)].canonical(text)

    @pydantic.field_validator("guidance_interval", mode="before")
    @classmethod
    def _two_ratios(cls, given: Any) -> Any:
        return _read_interval(given)

    @pydantic.field_validator("small_at", mode="before")
    @classmethod
    def _ones_and_zeros(cls, given: Any) -> Any:
        if isinstance(given, str):
            given = re.findall(r"[^\s,()\[\]]+", given)
        if given is not None:
            known = {0: 0, 1: 1, "0": 0, "1": 1}
            if not isinstance(given, (list, tuple)) or not {*given} <= set(known) or not given:
                raise ValueError(f"{given!r} is no column; it takes ones and zeros, as in (0,1,1)")
            given = tuple(known[one] for one in given)
        return given

    @pydantic.model_validator(mode="after")
    def _small_fits(self) -> Plan:
        if (self.small is None) != (self.small_at is None):
            raise ValueError("small and small_at go together: give both or neither")
        clash = next((name for name in ("reuse", "quantize") if getattr(self, name)), None)
        if self.small is not None and clash is not None:
            raise ValueError(f"small runs two whole networks, and {clash} changes one; drop one")
        return self

    @pydantic.model_validator(mode="after")
    def _reuse_fits(self) -> Plan:
        if self.guidance_interval is not None and self.guidance == 1.0:
            raise ValueError("guidance_interval narrows guidance, which is 1; set it, or drop both")
        if self.reusing is not None and self.quantize is not None:
            raise ValueError("quantize knows whole networks, and reuse splits them; drop one")
        if self.reusing is not None:
            solver, engine = solvers.parse(self.solver), engines.parse(self.engine)
            check_reuse(self.reusing, executors.parse(self.executor), solver, engine)
        return self

    @functools.cached_property
    def reusing(self) -> Reuse | None:
        """The part that ``reuse`` names."""
        return None if self.reuse is None else reuses.parse(self.reuse)

    def guidance_at(self, level: Level) -> float:
        """The guidance scale at ``level``: 1 outside the interval."""
        low, high = self.guidance_interval or (-1.0, math.inf)
        return self.guidance if low < level.ratio <= high else 1.0

    @property
    def network(self) -> tuple[str, ...]:
        """What a prepared network depends on: plans with the same can share it."""
        cut = () if self.reusing is None else (self.reusing.cut,)
        if self.small is not None:  # its times are those of the plan
            cut = (self.small, *(str(getattr(self, name)) for name in (*RULED, "program", "start")))
            cut = (*cut, str(self.small_at))
        cut = cut if self.merge is None else (*cut, f"merge {self.merge}")
        return self.engine, self.dtype, self.student or "", self.quantize or "", *cut

    @pydantic.model_validator(mode="after")
    def _program_rules(self) -> Plan:
        if self.program is not None:
            standard = type(self)()
            for name in RULED:
                if getattr(self, name) != getattr(standard, name):
                    raise ValueError(f"program {self.program!r} rules {name}; drop {name}")
        return self

    @functools.cached_property
    def learned(self) -> LearnedProgram | None:
        """What the file named by ``program`` holds."""
        return None if self.program is None else LearnedProgram.read(self.program)

    @property
    def smaller(self) -> Plan:
        """The plan with its small network alone."""
        changes = {"student": self.small, "small": None, "small_at": None}
        return self.model_copy(update=changes)

    @property
    def key(self) -> str:
        """Twelve hex digits that stand for the plan."""
        body = json.dumps(self.model_dump(), sort_keys=True)
        return hashlib.sha256(body.encode()).hexdigest()[:12]

    @functools.cached_property
    def crossing(self) -> Solver:
        """The solver, clipped where the plan says so."""
        if self.learned is not None:
            return Replayed(program=self.learned.program)
        solver = solvers.parse(self.solver)
        return solver if self.clip is None else Clipped(solver=solver, bound=self.clip)

    @property
    def stochastic(self) -> bool:
        """Whether the plan draws noise on the way."""
        return self.crossing.draws_noise()

    def levels(self, schedule: NoiseSchedule) -> tuple[Level, ...]:
        """The levels the plan visits on ``path``."""
        shorter = starts.parse(self.start).shortened(schedule)
        if self.learned is not None:
            begin = self.learned.program.start
            _require_start(begin, shorter.at(shorter.noisy), self.learned.start, self.start)
            return begin, schedule.at(schedule.clean)
        return grids.parse(self.grid).levels(shorter, self.steps)

    def trace(self, schedule: NoiseSchedule) -> Program:
        """The plan's Program on ``path``."""
        program = trace(self.crossing, self.levels(schedule))
        return program if self.reusing is None else self.reusing.marked(program)

    def model_copy(self, *, update: Any = None, deep: bool = False) -> Plan:
        """The plan with other fields, checked as a new one is; nothing that was derived from the
        old fields is kept."""
        return type(self)(**{**self.model_dump(), **(update or {})})

    def chosen(self) -> dict[str, Any]:
        """Solver, grid and steps, and every other field that is not as it is by default."""
        standard = type(self)().model_dump()
        always = ("solver", "grid", "steps") if self.program is None else ()
        fields = self.model_dump().items()
        return {name: value for name, value in fields if name in always or value != standard[name]}

    def __str__(self) -> str:
        return ",".join(f"{name}={value}" for name, value in self.chosen().items())

    @staticmethod
    def read(text: str | File) -> Plan:
        """The plan in a JSON or YAML file, or in the text ``key=value,...``.

        Raises:
            UserError: neither, or a field that is wrong.
        """
        given = str(text)
        if re.match(r"\s*\w+\s*=", given):
            return Plan(**_pairs(given))
        try:
            body = yaml.safe_load(File(given).read_text(encoding="utf-8"))
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise UserError(
                f"plan {given!r} is no file that can be read, nor key=value,... "
                f"({type(error).__name__})."
            ) from error
        if not isinstance(body, dict):
            raise UserError(f"plan file {given!r} holds no fields; see `hasten tune`.")
        return Plan(**{str(key): value for key, value in body.items()})

    def write(self, file: str | File) -> None:
        """Write the plan as JSON."""
        from hasten.core.files import write_text

        write_text(file, json.dumps(self.model_dump(), indent=1) + "\n")


PlanLike = Plan | str | File | Mapping[str, Any]


def as_plan(given: PlanLike | None, default: Mapping[str, Any] | None = None) -> Plan:
    """A Plan from a Plan, a file, the text ``key=value,...``, or a mapping of fields; from the
    fields ``default`` where None is given.

    Raises:
        UserError: it is none of these, or a field is wrong.
    """
    if isinstance(given, Plan):
        return given
    if given is None:
        given = default or {}
    if isinstance(given, (str, File)):
        return Plan.read(given)
    if not isinstance(given, Mapping):
        raise UserError(
            f"plan is a {type(given).__name__}; give a hasten.Plan, the text 'key=value,...', a "
            "file, or a dict of fields."
        )
    return Plan(**{str(name): value for name, value in given.items()})


def _require_start(begin: Level, first: Level, learned: str, start: str) -> None:
    kinds = [text.partition("(")[0] for text in (learned, start)]
    if kinds[0] != kinds[1]:
        raise UserError(
            f"{FIELD} was learned for start {learned!r}, but start is {start!r}; set start to it."
        )
    same = math.isclose(begin.ratio, first.ratio, rel_tol=1e-4)
    if not (same or (start == "noise" and begin.ratio < first.ratio)):
        raise UserError(
            f"{FIELD} begins at sigma / alpha = {begin.ratio:g}, but the walk at {first.ratio:g}; "
            "use the model's path and the start it was learned with."
        )


def _read_interval(given: Any) -> Any:
    """``(low, high)`` from text or a list; low below high, infinity allowed for high."""
    if isinstance(given, str):
        text = given.strip().strip("([])")
        try:
            given = [float(piece) for piece in text.split(",")]
        except ValueError:
            raise ValueError(f"{text!r} is no interval; write (low, high)") from None
    if given is not None:
        good = isinstance(given, (list, tuple)) and len(given) == 2
        if not good or not 0 <= given[0] < given[1]:
            raise ValueError(f"{given!r} is no interval (low, high) with 0 <= low < high")
    return given


def _pairs(text: str) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for piece in _pieces(text):
        name, equals, value = piece.partition("=")
        name = name.strip()
        if not equals or not name:
            raise UserError(f"plan text {text!r}: {piece.strip()!r} is no key=value.")
        if name in out:
            raise UserError(f"plan text {text!r} gives {name!r} twice.")
        try:
            out[name] = value.strip() if "(" in value else yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise UserError(f"plan text {text!r}: {value.strip()!r} cannot be read.") from error
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
