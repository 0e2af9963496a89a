"""The one interpreter of Programs.

:func:`stepping` crosses the rows of a program. What follows from the registers alone it computes;
network calls and noise it yields, and is sent their answers. Every executor, the diffusers
scheduler, lowering and learning drive it: who answers, and in what order runs are advanced, is
theirs to say. Registers are freed after their last use, so memory does not grow with the program.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Generator, Iterable, Sequence

from hasten.core.ask import Ask, Combine, Latent
from hasten.core.program import Program, Walk, symbol

Answers = tuple[Latent, ...]
"""One value for each register that a row writes."""

Compute = Callable[[Ask, tuple[Latent, ...]], Answers | None]
"""The answers of a row from its registers' values; None where its driver has to answer."""


@dataclasses.dataclass(frozen=True, eq=False)
class Pending:
    """A row that waits for its answers: its number, its ask, and the values it reads."""

    number: int
    ask: Ask
    values: tuple[Latent, ...]


Steps = Generator[tuple[Pending, ...], Sequence[Answers], Latent]
"""Yields rows that wait (evaluations that do not read each other together), is sent the answers of
each, and returns the value of the program's output, None where it was not reached."""


def on_tensors(ask: Ask, values: tuple[Latent, ...]) -> Answers | None:
    """Everything but network calls and noise, on tensors."""
    return ask.compute(*values)


def sums(ask: Ask, values: tuple[Latent, ...]) -> Answers | None:
    """Sums of tensors alone: for drivers that look at x0 as the solver uses it, clipped."""
    return ask.compute(*values) if isinstance(ask, Combine) else None


def nothing(ask: Ask, values: tuple[Latent, ...]) -> Answers | None:
    """Leaves every row to the driver."""
    return None


def on_symbols(ask: Ask, values: tuple[Latent, ...]) -> Answers | None:
    """Sums alone, on anything that can be added and multiplied by a number: a row that is not
    linear is left to the driver."""
    if not isinstance(ask, Combine):
        return None
    pairs = zip(ask.coefficients, values, strict=True)
    return (sum(coefficient * value for coefficient, value in pairs),)


def stepping(
    program: Program,
    registers: dict[str, Latent],
    *,
    rows: range | None = None,
    compute: Compute = on_tensors,
    together: bool = True,
) -> Steps:
    """Cross ``program``.

    Args:
        registers: the inputs by name; changed as rows are crossed. A driver may change it too while
            it holds a yield (to drop pictures that are done, say).
        rows: the rows to cross, all by default.
        compute: what rows are computed by.
        together: whether evaluations that do not read each other are yielded together.
    """
    groups: Iterable[tuple[int, ...]]
    if rows is None and together:
        groups = program.groups
    else:
        numbers = range(len(program.rows)) if rows is None else rows
        groups = ((number,) for number in numbers)
    for group in groups:
        pending = tuple(_pending(program, number, registers) for number in group)
        computed = compute(pending[0].ask, pending[0].values) if len(group) == 1 else None
        answers = (yield pending) if computed is None else (computed,)
        del pending, computed
        for number, values in zip(group, answers, strict=True):
            registers.update(zip(program.rows[number].out, values, strict=True))
        del answers
        for number in group:
            for name in program.frees[number]:
                registers.pop(name, None)
    return registers.get(program.output)


def _pending(program: Program, number: int, registers: dict[str, Latent]) -> Pending:
    ask = program.rows[number].ask
    return Pending(number, ask, tuple(registers[name] for name in ask.reads()))


def follow(steps: Steps, answer: Callable[[tuple[Pending, ...]], Sequence[Answers]]) -> Latent:
    """Drive ``steps`` to their end, where ``answer`` answers everything that waits."""
    try:
        pending = next(steps)
        while True:
            answers = answer(pending)
            del pending
            pending = steps.send(answers)
    except StopIteration as stop:
        return stop.value


def asking(
    program: Program,
    answer: Callable[[Ask, tuple[Latent, ...]], Walk],
    registers: dict[str, Latent] | None = None,
    compute: Compute = on_symbols,
) -> Walk:
    """Drive ``program`` on symbolic latents as a walk: ``answer`` is a walk too, that is given each
    ask and the values of its latents, and returns the answer (a tuple where there are several).

    Args:
        registers: the inputs; by default a symbol each.
        compute: what rows are computed by; ``answer`` is given the rest.
    """
    registers = registers or {name: symbol(name) for name in program.inputs}
    steps = stepping(program, registers, compute=compute, together=False)
    try:
        (pending,) = next(steps)
        while True:
            answers = yield from answer(pending.ask, pending.values)
            several = len(pending.ask.answers) > 1
            (pending,) = steps.send([answers if several else (answers,)])
    except StopIteration as stop:
        return stop.value
