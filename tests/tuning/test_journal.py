"""Finished measurements on disk."""

from __future__ import annotations

import json

import pytest
from tuning_fakes import REFERENCE, latency, ode_error

from hasten.core.errors import UserError
from hasten.core.plan import Plan
from hasten.tuning.journal import VERSION, Journal
from hasten.tuning.requests import (
    Outcome,
    Screen,
    Screening,
    TimeAlone,
)

FIRST, SECOND = (
    TimeAlone(plan=Plan(), batch=1, seconds=1.0, repetition=number) for number in (1, 2)
)


def test_a_journal_forgets_only_the_line_that_was_cut_off(tmp_path):
    file = tmp_path / "trials.jsonl"

    def opened() -> Journal:
        return Journal(file=file, subject={"model": "a"})

    def filled(journal: Journal) -> None:
        journal.outcome(FIRST, lambda: Outcome(answer=latency(1.0)))
        journal.outcome(SECOND, lambda: Outcome(answer=latency(2.0)))

    filled(opened())
    body = file.read_bytes()
    starts = [0, *(i + 1 for i, byte in enumerate(body) if byte == 10)]
    for cut in range(0, len(body), 7):
        file.write_bytes(body[:cut])
        whole = sum(start <= cut for start in starts) - 1  # lines that are complete
        again = opened()
        assert [FIRST in again, SECOND in again] == [whole > 1, whole > 2]
        filled(again)
        assert len(opened()) == 2
        assert file.read_bytes() == body


def test_an_outcome_comes_back_as_it_was_recorded(tmp_path):
    request = Screen(plan=Plan(solver="ddim", steps=3), samples=2, reference=REFERENCE)
    outcome = Outcome(answer=Screening(evaluations=3, ode_error=ode_error(0.1)), seconds=0.5)
    Journal(file=tmp_path / "j", subject={}).outcome(request, lambda: outcome)
    never = pytest.fail
    again = Journal(file=tmp_path / "j", subject={}).outcome(request, lambda: never("measured"))
    assert again == outcome
    failed = Outcome[Screening](failure="solver 'ddim' cannot")
    other = Screen(plan=Plan(solver="ddim", steps=4), samples=2, reference=REFERENCE)
    Journal(file=tmp_path / "j", subject={}).outcome(other, lambda: failed)
    again = Journal(file=tmp_path / "j", subject={}).outcome(other, lambda: never("measured"))
    assert again == failed


@pytest.mark.parametrize("why", ["timed_out", "killed"])
def test_what_another_run_may_bring_to_an_end_is_not_recorded(tmp_path, why):
    request = Screen(plan=Plan(solver="ddim", steps=3), samples=2, reference=REFERENCE)
    failed = Outcome[Screening](failure="took longer than 5 s", **{why: True})
    journal = Journal(file=tmp_path / "j", subject={})
    assert journal.outcome(request, lambda: failed) == failed
    assert journal.outcome(request, lambda: pytest.fail("tried twice in one run")) == failed
    done = Outcome(answer=Screening(evaluations=3, ode_error=ode_error(0.1)))
    assert Journal(file=tmp_path / "j", subject={}).outcome(request, lambda: done) == done


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([{"version": VERSION, "subject": {"model": "b"}}], "another model, device or setting"),
        ([{"subject": "a"}], "was written by an older version of hasten; choose another --out"),
        ([{"version": VERSION + 1, "subject": "a"}], "was written by a newer version"),
        ([{}], "damaged"),
        ([{"version": VERSION, "subject": "a"}, {"no": "request"}], "damaged"),
    ],
)
def test_a_journal_of_something_else_is_refused_in_one_line(tmp_path, lines, message):
    file = tmp_path / "trials.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(UserError, match=message):
        Journal(file=file, subject={"model": "a"})
    file.write_text("no json\nat all\n")
    with pytest.raises(UserError, match="damaged"):
        Journal(file=file, subject={})


def test_measurements_of_files_that_changed_are_refused_and_new_files_are_not(tmp_path):
    file = tmp_path / "j"
    Journal(file=file, subject={"model": "a", "learned": {"p.json": "1"}})
    Journal(file=file, subject={"model": "a", "learned": {"p.json": "1", "q.json": "2"}})
    Journal(file=file, subject={"model": "a", "learned": {}})
    with pytest.raises(UserError, match=r"made before p\.json changed"):
        Journal(file=file, subject={"model": "a", "learned": {"p.json": "3"}})
    with pytest.raises(UserError, match="another model, device or setting"):
        Journal(file=file, subject={"model": "b", "learned": {"p.json": "1"}})
