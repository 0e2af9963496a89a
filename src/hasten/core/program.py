"""A Program: a walk traced into a short table of numbers.

Each row is one Ask with register names for latents. ``x`` is the start, beside other inputs where
there are any (a source picture, a mask); a row gives its answers new names; ``output`` names the
last x. The table says all there is to say about sampling, so a runtime is a loop over rows
(:mod:`hasten.core.stepping`), in any language.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from collections.abc import Generator, Sequence

from hasten.core.ask import ASKS, MAIN, Ask, Combine, Denoise, DenoiseWithVariance, Latent
from hasten.core.call import FULL
from hasten.core.errors import UserError, nearest, require
from hasten.core.files import JsonObject
from hasten.core.level import Level
from hasten.core.linear import Linear

Walk = Generator[Ask, Latent, Latent]
"""Yields what it asks, is sent the answer (a tuple where there are several), returns the last x."""

FORMAT = "hasten-program-1"
SPARSE = {"variant": FULL, "condition": MAIN}  # columns that are written only where they differ
CACHED = "cached"  # the variant that takes the features of the last full evaluation
START = "x"


@dataclasses.dataclass(frozen=True)
class Row:
    """``out = ask``."""

    out: tuple[str, ...]
    ask: Ask


@dataclasses.dataclass(frozen=True)
class Program:
    """Rows in order, the register that holds the result, the level the start lies at, and the
    registers that are given: the start ``x`` first."""

    rows: tuple[Row, ...]
    output: str
    start: Level
    inputs: tuple[str, ...] = (START,)

    def __post_init__(self) -> None:
        _check(self)

    @functools.cached_property
    def evaluations(self) -> int:
        """Network calls for one picture (guidance doubles the cost of each, not their number)."""
        return len(self.asks)

    @functools.cached_property
    def asks(self) -> tuple[Ask, ...]:
        """What each evaluation asks, in order."""
        return tuple(row.ask for row in self.rows if row.ask.calls)

    @functools.cached_property
    def variants(self) -> tuple[str, ...]:
        """For each evaluation the variant of the network that answers it."""
        return tuple(getattr(ask, "variant", FULL) for ask in self.asks)

    @property
    def plain(self) -> bool:
        """Whether the full network answers every evaluation."""
        return all(variant == FULL for variant in self.variants)

    def with_variants(self, column: Sequence[str]) -> Program:
        """The program with another column ``variant``, one entry for each evaluation.

        Raises:
            UserError: the column is of another length, or its first entry needs what a full
                evaluation keeps.
        """
        require(
            len(column) == self.evaluations,
            f"a column of variants has {len(column)} entries, but the program makes "
            f"{self.evaluations} evaluations; give one for each.",
        )
        entries, rows = iter(column), []
        for row in self.rows:
            if row.ask.calls:
                row = Row(row.out, dataclasses.replace(row.ask, variant=next(entries)))  # type: ignore[call-arg]
            rows.append(row)
        return dataclasses.replace(self, rows=tuple(rows))

    @functools.cached_property
    def draws(self) -> int:
        """Noise latents drawn on the way."""
        return sum(row.ask.op == "noise" for row in self.rows)

    @functools.cached_property
    def groups(self) -> tuple[tuple[int, ...], ...]:
        """Row numbers in order, evaluations that follow each other without reading each other put
        together: they can be asked side by side."""
        if not self.plain:  # a cached evaluation follows from the one before it
            return tuple((number,) for number in range(len(self.rows)))
        out: list[list[int]] = []
        for number, row in enumerate(self.rows):
            last = out[-1] if out else []
            beside = bool(last) and isinstance(row.ask, Denoise)
            for other in last:
                read = set(self.rows[other].out) & set(row.ask.reads())
                beside = beside and isinstance(self.rows[other].ask, Denoise) and not read
            if beside:
                last.append(number)
            else:
                out.append([number])
        return tuple(tuple(group) for group in out)

    @functools.cached_property
    def rounds(self) -> int:
        """Network calls one after the other, where evaluations of a group are one call."""
        return sum(self.rows[group[0]].ask.calls for group in self.groups)

    @functools.cached_property
    def levels(self) -> tuple[Level, ...]:
        """The levels the network is asked at, in order."""
        return tuple(
            row.ask.level
            for row in self.rows
            if isinstance(row.ask, (Denoise, DenoiseWithVariance))
        )

    @functools.cached_property
    def frees(self) -> tuple[tuple[str, ...], ...]:
        """For every row the registers that no later row reads: liveness, so memory is constant."""
        last: dict[str, int] = dict.fromkeys(self.inputs, -1)
        for index, row in enumerate(self.rows):
            last.update(dict.fromkeys((*row.ask.reads(), *row.out), index))
        last.pop(self.output)
        frees: list[list[str]] = [[] for _ in self.rows]
        for register, index in last.items():
            if index >= 0:
                frees[index].append(register)
        return tuple(tuple(names) for names in frees)

    @functools.cached_property
    def peak(self) -> int:
        """The most registers alive at once, the one being written included."""
        alive = most = len(self.inputs)
        for row, dead in zip(self.rows, self.frees, strict=True):
            alive += len(row.out)
            most = max(most, alive)
            alive -= len(dead)
        return most

    def to_json(self) -> str:
        """JSON text; floats are written so that :meth:`from_json` gives the same bits."""
        rows = [_row_out(row) for row in self.rows]
        body: dict[str, object] = {"start": dataclasses.asdict(self.start), "output": self.output}
        if self.inputs != (START,):
            body["inputs"] = list(self.inputs)
        head = json.dumps({"format": FORMAT, **body})[:-1]
        lines = ",\n ".join(json.dumps(row) for row in rows)
        return f'{head}, "rows": [\n {lines}\n]}}\n'

    @staticmethod
    def from_json(text: str) -> Program:
        """The Program in ``text``.

        Raises:
            UserError: no JSON, another format, an unknown op, a field missing, a register read
                before it is written, a number that is not finite.
        """
        try:
            body = json.loads(text)
        except (TypeError, ValueError, RecursionError) as error:
            raise UserError(f"program is no JSON: {error}") from error
        known = isinstance(body, dict) and body.get("format") == FORMAT
        require(known, f"program has no format {FORMAT!r}; make it again with hasten.trace.")
        try:
            rows = tuple(_row_in(row) for row in body["rows"])
            inputs = tuple(body.get("inputs", (START,)))
            start = Level(**{name: float(value) for name, value in body["start"].items()})
            return Program(rows, body["output"], start, inputs)
        except UserError:
            raise
        except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
            raise UserError(f"program has a field missing or of the wrong kind: {error}") from error

    def __str__(self) -> str:
        return "\n".join([*(_line(row) for row in self.rows), f"out = {self.output}"])


def trace_walk(walk: Walk, level: Level, inputs: Sequence[str] = (START,)) -> Program:
    """Run a walk on symbolic latents and write down what it asks.

    Args:
        walk: on the symbols of its inputs, see :func:`symbol`.
        level: where the start lies.
        inputs: their names, the start first.

    Raises:
        TracingError: the walk does something to a latent that is not linear.
    """
    tape = _Tape(inputs)
    answers: Linear | tuple[Linear, ...] | None = None
    while True:
        try:
            ask = walk.send(answers)
        except StopIteration as stop:
            output = tape.register(stop.value)  # may add the last row
            return Program(tuple(tape.rows), output, level, tuple(inputs))
        answers = tape.record(ask)


class _Tape:
    def __init__(self, inputs: Sequence[str]) -> None:
        self.rows: list[Row] = []
        self._names = set(inputs)
        self._used: dict[str, int] = {START: 1}

    def record(self, ask: Ask) -> Linear | tuple[Linear, ...]:
        registers = tuple(self.register(latent) for latent in ask.reads())
        out = self._emit(ask.with_latents(registers))
        answers = tuple(Linear({name: 1.0}) for name in out)
        return answers[0] if len(answers) == 1 else answers

    def register(self, latent: Linear) -> str:
        """The register that holds ``latent``, computed by a new row where it has none yet."""
        terms = {name: value for name, value in latent.terms.items() if value != 0.0}
        if list(terms.values()) == [1.0]:
            return next(iter(terms))
        terms = terms or {START: 0.0}
        (name,) = self._emit(Combine(tuple(terms), tuple(terms.values())))
        latent.become_(name)
        return name

    def _emit(self, ask: Ask) -> tuple[str, ...]:
        out = []
        for letter in ask.answers:
            number = self._used.get(letter, 0)
            while f"{letter}{number}" in self._names:  # an input may be called so
                number += 1
            self._used[letter] = number + 1
            out.append(f"{letter}{number}")
        self.rows.append(Row(tuple(out), ask))
        return tuple(out)


def symbol(name: str = START) -> Linear:
    """An input of a walk that is traced: by default its start."""
    return Linear({name: 1.0})


def _check(program: Program) -> None:
    require(len(program.rows) > 0, "program has no rows.")
    known = set(program.inputs)
    require(
        program.inputs[:1] == (START,) and len(known) == len(program.inputs),
        f"program inputs are {list(program.inputs)}; they begin with {START!r} and differ.",
    )
    for number, row in enumerate(program.rows):
        for register in row.ask.reads():
            if register not in known:
                raise UserError(
                    f"program row {number} reads {register!r} before a row has written it."
                )
        for name in row.out:
            require(name not in known, f"program row {number} writes {name!r} a second time.")
            known.add(name)
        require(
            len(row.out) == len(row.ask.answers),
            f"program row {number}: {row.ask.op!r} gives {len(row.ask.answers)} answers.",
        )
        if isinstance(row.ask, Combine):
            terms, coefficients = row.ask.terms, row.ask.coefficients
            alike = isinstance(terms, tuple) and 0 < len(terms) == len(coefficients)
            require(
                alike,
                f"program row {number}: terms and coefficients are as many, one or more.",
            )
        for value in _numbers(row.ask):
            if not math.isfinite(value):
                raise UserError(
                    f"program row {number} holds {value}: the grid visits a level without "
                    "signal or noise that its solver cannot cross. Use another grid."
                )
    for level in (program.start, *program.levels):
        require(
            all(map(math.isfinite, (level.t, level.alpha, level.sigma)))
            and level.alpha >= 0
            and level.sigma >= 0
            and level.alpha + level.sigma > 0,
            f"program has the level {level}; alpha and sigma are finite, not negative, and not "
            "both 0.",
        )
    begins = next((row.ask for row in program.rows if row.ask.calls), None)
    require(
        getattr(begins, "variant", FULL) != CACHED,
        "program takes cached features in its first evaluation, before there are any; make that "
        "one full.",
    )
    require(program.output in known, f"program output {program.output!r} is written by no row.")


def _numbers(ask: Ask) -> list[float]:
    out: list[float] = []
    for field in dataclasses.fields(ask):
        value = getattr(ask, field.name)
        if isinstance(value, Level):
            out += [value.t, value.alpha, value.sigma]
        elif field.name == "coefficients":
            out += value
        elif isinstance(value, float):
            out.append(value)
    return out


def _row_out(row: Row) -> dict[str, object]:
    body = {name: getattr(row.ask, name) for name in _columns(row.ask)}
    for name, value in body.items():
        if isinstance(value, Level):
            body[name] = dataclasses.asdict(value)
    return {"out": list(row.out), "op": row.ask.op, **body}


def _columns(ask: Ask) -> list[str]:
    names = [field.name for field in dataclasses.fields(ask)]
    return [name for name in names if getattr(ask, name) != SPARSE.get(name)]


def _row_in(entry: JsonObject) -> Row:
    body = dict(entry)
    out, op = tuple(body.pop("out")), body.pop("op")
    if op not in ASKS:
        raise UserError(f"program has the unknown op {op!r}. {nearest(str(op), ASKS)}")
    if body.pop("reuse", False):  # programs written before there were variants
        body["variant"] = CACHED
    if "level" in body:
        body["level"] = Level(**{key: float(value) for key, value in body["level"].items()})
    for name, value in body.items():
        if isinstance(value, list):
            body[name] = tuple(value)
    return Row(out, ASKS[op](**body))


def _line(row: Row) -> str:
    body = ", ".join(f"{name}={getattr(row.ask, name)}" for name in _columns(row.ask))
    if isinstance(row.ask, Combine):
        pairs = zip(row.ask.coefficients, row.ask.terms, strict=True)
        body = " + ".join(f"{value:.6g} {name}" for value, name in pairs)
        return f"{row.out[0]} = {body}"
    return f"{', '.join(row.out)} = {row.ask.op}({body})"
