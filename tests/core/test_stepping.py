"""The interpreter: rows in order, registers freed, what a driver answers."""

from __future__ import annotations

import pytest
import torch

import hasten
from hasten.core.ask import Denoise, Noise
from hasten.core.plan import Plan
from hasten.core.program import trace_walk
from hasten.core.stepping import asking, follow, on_symbols, stepping, sums

LEVELS = Plan(solver="ddim(eta=0.5)", grid="uniform", steps=3).levels(hasten.schedule("ddpm"))
PROGRAM = Plan(solver="ddim(eta=0.5)", grid="uniform", steps=3, clip=0.5).trace(
    hasten.schedule("ddpm")
)


def start() -> dict[str, torch.Tensor]:
    return {"x": torch.linspace(-1, 1, 6, dtype=torch.float64).view(2, 3)}


def answer(pending):
    """Half of x for an evaluation, a third for noise, and what any other row computes."""
    out = []
    for row in pending:
        if isinstance(row.ask, Denoise):
            out.append((0.5 * row.values[0],))
        elif isinstance(row.ask, Noise):
            out.append((torch.full((2, 3), 1 / 3, dtype=torch.float64),))
        else:
            out.append(row.ask.compute(*row.values))
    return out


def seen(**options) -> list[str]:
    ops = []

    def note(pending):
        ops.extend(row.ask.op for row in pending)
        return answer(pending)

    follow(stepping(PROGRAM, start(), **options), note)
    return ops


def test_a_driver_is_asked_for_what_does_not_follow_from_registers_alone():
    assert seen() == ["denoise", "noise"] * 2 + ["denoise"]
    assert seen(compute=sums) == ["denoise", "clip", "noise"] * 2 + ["denoise", "clip"]
    assert seen(compute=lambda ask, values: None) == [row.ask.op for row in PROGRAM.rows]


def test_whoever_computes_the_last_latents_are_the_same():
    ends = [
        follow(stepping(PROGRAM, start(), compute=compute), answer)
        for compute in (sums, lambda ask, values: None)
    ]
    whole = follow(stepping(PROGRAM, start()), answer)
    assert all(torch.equal(end, whole) for end in ends)


@pytest.mark.parametrize("cut", range(len(PROGRAM.rows) + 1))
def test_rows_are_crossed_in_pieces(cut):
    whole = follow(stepping(PROGRAM, start()), answer)
    registers = start()
    first = follow(stepping(PROGRAM, registers, rows=range(cut)), answer)
    last = follow(stepping(PROGRAM, registers, rows=range(cut, len(PROGRAM.rows))), answer)
    assert torch.equal(last, whole)
    assert first is None or cut == len(PROGRAM.rows)


def test_an_empty_range_crosses_nothing():
    registers = start()
    assert follow(stepping(PROGRAM, registers, rows=range(0)), answer) is None
    assert list(registers) == ["x"]
    assert torch.equal(registers["x"], start()["x"])


def test_no_register_is_left_but_the_output():
    registers = start()
    follow(stepping(PROGRAM, registers), answer)
    assert list(registers) == [PROGRAM.output]


def test_a_driver_may_change_registers_while_it_holds_a_row():
    registers = start()

    def first_picture(pending):
        answers = answer(pending)
        if len(pending[0].values) == 1 and len(pending[0].values[0]) == 2:
            for name, value in registers.items():
                registers[name] = value[:1]
            answers = [tuple(value[:1] for value in values) for values in answers]
        return [tuple(value[:1] for value in values) for values in answers]

    whole = follow(stepping(PROGRAM, start()), answer)
    assert torch.equal(follow(stepping(PROGRAM, registers), first_picture), whole[:1])


def test_a_program_is_a_walk_again():
    def yields(ask, values):
        return (yield ask.with_latents(values))

    again = trace_walk(asking(PROGRAM, yields), PROGRAM.start)
    assert again == PROGRAM
    assert on_symbols(PROGRAM.rows[0].ask, ()) is None
