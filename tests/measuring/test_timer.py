"""Where every time comes from, on a clock of its own."""

from __future__ import annotations

import types

import pytest

from hasten.measuring import timer
from hasten.measuring.timer import once, side_by_side, summary, timed


class Clock:
    """Seconds that pass only where a call takes them."""

    def __init__(self) -> None:
        self.now, self.calls = 0.0, 0

    def call(self, seconds: float) -> None:
        self.now += seconds
        self.calls += 1


@pytest.fixture
def clock(monkeypatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(timer, "time", types.SimpleNamespace(perf_counter=lambda: made.now))
    return made


def test_the_timer_keeps_the_first_run_apart(clock):
    durations = iter([9.0, 5.0, 5.0, 5.0, *range(1, 8)])
    timing = timed(lambda: clock.call(next(durations)), repeats=7, warmup=3)
    assert (timing.first, timing.median, timing.n, clock.calls) == (9.0, 4.0, 7, 11)
    assert once(lambda: clock.call(2.5)) == 2.5


def test_the_summary_holds_order_statistics():
    known = summary(9.0, [float(i) for i in range(1, 101)])
    assert (known.median, known.p90, known.first) == (50.5, 90.0, 9.0)
    assert (known.low, known.high) == (41.0, 61.0)
    milliseconds = known.milliseconds()
    assert (milliseconds.median, milliseconds.first, milliseconds.n) == (50500.0, 9000.0, 100)


@pytest.mark.parametrize(("seconds", "calls"), [(0.1, 12), (1.0, 8), (3.0, 6), (40.0, 3)])
def test_slow_calls_are_timed_fewer_times(clock, seconds, calls):
    assert timed(lambda: clock.call(seconds), repeats=20, seconds=1.0).median == pytest.approx(
        seconds
    )
    assert clock.calls == pytest.approx(calls, abs=1)


def test_calls_side_by_side_are_timed_in_turn():
    order: list[str] = []
    first, second = side_by_side([lambda: order.append("a"), lambda: order.append("b")], rounds=3)
    assert order == list("abbaabba")
    assert (first.n, second.n) == (3, 3)


@pytest.mark.parametrize(("least", "rounds"), [(1, 3), (5, 5)])
def test_rounds_end_when_the_next_would_be_too_late(clock, least, rounds):
    def second() -> None:
        clock.call(1.0)

    first, other = side_by_side([second, second], rounds=10, seconds=6.0, least=least)
    assert (first.n, other.n) == (rounds, rounds)
    assert first.median == 1.0
