"""A Plan: one choice of everything, as data."""

from __future__ import annotations

import functools
import hashlib
import json
import re
from pathlib import Path as File
from typing import Annotated, Any, Literal

import pydantic
import yaml

from hasten.core.engine import engines
from hasten.core.errors import UserError
from hasten.core.executor import executors
from hasten.core.grid import grids
from hasten.core.level import Level, Path
from hasten.core.program import Program
from hasten.core.registry import Registry
from hasten.core.solver import Clipped, Solver, solvers, trace
from hasten.core.start import starts
from hasten.core.strict import Strict

PARTS: dict[str, Registry[Any]] = {
    "solver": solvers,
    "grid": grids,
    "executor": executors,
    "start": starts,
    "engine": engines,
}


class Plan(Strict):
    """How to sample. Every field has a default; unknown or conflicting fields raise.

    Attributes:
        solver, grid, executor, start, engine: parts, ``name`` or ``name(option=value, ...)``.
        steps: intervals between levels, 1 to 10000.
        guidance: classifier-free guidance scale; 1 is none.
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
    executor: str = "sequential"
    start: str = "noise"
    guidance: Annotated[float, pydantic.Field(ge=0, le=100, allow_inf_nan=False)] = 1.0
    clip: Annotated[float, pydantic.Field(gt=0, le=1e6, allow_inf_nan=False)] | None = None
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    engine: str = "eager"
    other_weights: bool = False
    device: Literal["cpu", "cuda", "mps", "xpu"] | None = None

    @pydantic.field_validator(*PARTS)
    @classmethod
    def _canonical(cls, text: str, info: pydantic.ValidationInfo) -> str:
        return PARTS[str(info.field_name)].canonical(text)

    @property
    def key(self) -> str:
        """Twelve hex digits that stand for the plan."""
        body = json.dumps(self.model_dump(), sort_keys=True)
        return hashlib.sha256(body.encode()).hexdigest()[:12]

    @functools.cached_property
    def crossing(self) -> Solver:
        """The solver, clipped where the plan says so."""
        solver = solvers.parse(self.solver)
        return solver if self.clip is None else Clipped(solver=solver, bound=self.clip)

    @property
    def stochastic(self) -> bool:
        """Whether the plan draws noise on the way."""
        return self.crossing.draws_noise()

    def levels(self, path: Path) -> tuple[Level, ...]:
        """The levels the plan visits on ``path``."""
        shorter = starts.parse(self.start).shortened(path)
        return grids.parse(self.grid).levels(shorter, self.steps)

    def trace(self, path: Path) -> Program:
        """The plan's Program on ``path``."""
        return trace(self.crossing, self.levels(path))

    def chosen(self) -> dict[str, Any]:
        """Solver, grid and steps, and every other field that is not as it is by default."""
        standard = type(self)().model_dump()
        always = ("solver", "grid", "steps")
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

    def write(self, file: File) -> None:
        """Write the plan as JSON."""
        from hasten.core.files import write_text

        write_text(file, json.dumps(self.model_dump(), indent=1) + "\n")


def _pairs(text: str) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for piece in re.split(r",(?![^(]*\))", text):
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
