"""A Program that was learned for certain weights, as the file that a plan's ``program`` names."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

from hasten.core.artifact import located, require_weights
from hasten.core.ask import Ask, Latent
from hasten.core.errors import UserError, require
from hasten.core.files import JsonObject, read_json, write_text
from hasten.core.level import Level
from hasten.core.model import Model
from hasten.core.program import Program, Walk
from hasten.core.solver import Solver
from hasten.core.stepping import asking, nothing

FORMAT = "hasten-learned-program-1"
FIELD = "plan field 'program'"


@dataclasses.dataclass(frozen=True, kw_only=True)
class LearnedProgram:
    """``program``, the sha256 of the ``weights`` it was learned for, and ``facts`` of how.

    ``model`` is the name those weights had; ``start`` where its walk begins, as a plan names it.
    """

    program: Program
    weights: str
    model: str
    start: str = "noise"
    facts: JsonObject = dataclasses.field(default_factory=dict)

    def write(self, file: Path) -> None:
        """Write the file."""
        names = {"model": self.model, "weights": self.weights, "start": self.start}
        table = json.dumps({"format": FORMAT, **names})[:-1]
        facts = json.dumps(self.facts)
        write_text(file, f'{table},\n"facts": {facts},\n"program": {self.program.to_json()}}}\n')

    @staticmethod
    def read(name: str) -> LearnedProgram:
        """The learned program that ``name`` (a path, or ``builtin:MODEL/FILE``) means.

        Raises:
            UserError: no such file, or no learned program in it.
        """
        body = read_json(located(FIELD, name))
        known = isinstance(body, dict) and body.get("format") == FORMAT
        require(
            known,
            f"{FIELD} is {name!r}, which holds no learned program; see `hasten learn program`.",
        )
        try:
            return LearnedProgram(
                program=Program.from_json(json.dumps(body["program"])),
                weights=str(body["weights"]),
                model=str(body["model"]),
                start=str(body["start"]),
                facts=dict(body["facts"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            why = str(error) if isinstance(error, UserError) else f"{error!r} is missing or wrong"
            raise UserError(f"{FIELD} is {name!r}, which is damaged: {why}") from error

    def check(self, model: Model, other_weights: bool) -> None:
        """Refuse weights that it was not learned for, unless told."""
        require_weights(FIELD, self.weights, model, other_weights)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Replayed(Solver):
    """Walks as ``program`` says, whatever the levels."""

    program: Program

    part_name = "learned program"

    def draws_noise(self) -> bool:
        return self.program.draws > 0

    def walk(self, x: Latent, levels: Sequence[Level]) -> Walk:
        def answer(ask: Ask, values: tuple[Latent, ...]) -> Walk:
            return (yield ask.with_latents(values))

        return asking(self.program, answer, {"x": x}, compute=nothing)
