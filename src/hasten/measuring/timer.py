"""Where every time in hasten comes from."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

import torch

from hasten.core.report import Timing

SLOW = 10  # times the seconds asked for, after which fewer than five runs are enough


def timed(
    call: Callable[[], object],
    *,
    device: torch.device | str = "cpu",
    repeats: int = 20,
    warmup: int = 2,
    seconds: float = math.inf,
) -> Timing:
    """Time ``call`` until ``repeats`` runs, or ``seconds`` once five runs are in, or ten times
    ``seconds`` however many.

    The first run is reported apart (it compiles and fills caches), then ``warmup`` runs are thrown
    away, fewer where they take longer than ``seconds``. The device is waited for around each run.
    The interval of the median is the binomial one of order statistics, which assumes nothing about
    the distribution.
    """
    first = once(call, device)
    for _ in range(warmup):
        if once(call, device) > seconds:
            break
    times = [once(call, device)]
    while len(times) < repeats and sum(times) < (seconds if len(times) >= 5 else SLOW * seconds):
        times.append(once(call, device))
    return summary(first, times)


def side_by_side(
    calls: Sequence[Callable[[], object]],
    *,
    device: torch.device | str = "cpu",
    rounds: int = 7,
    seconds: float = math.inf,
    least: int = 1,
) -> list[Timing]:
    """Time ``calls`` in turn, round after round, so that a machine whose speed drifts treats all of
    them alike; every other round runs backwards. As many rounds as ``seconds`` have room for, from
    ``least`` to ``rounds``."""
    first = [once(call, device) for call in calls]
    times: list[list[float]] = [[] for _ in calls]
    places = list(range(len(calls)))
    began = time.perf_counter()
    for number in range(rounds):
        if number >= least and (time.perf_counter() - began) * (number + 1) / number > seconds:
            break
        for place in places if number % 2 else reversed(places):
            times[place].append(once(calls[place], device))
    return [summary(first_s, row) for first_s, row in zip(first, times, strict=True)]


def once(call: Callable[[], object], device: torch.device | str = "cpu") -> float:
    """Seconds of one run, device included."""
    _wait(device)
    began = time.perf_counter()
    call()
    _wait(device)
    return time.perf_counter() - began


def summary(first: float, times: list[float]) -> Timing:
    """Median, 90th percentile and the median's 95% interval of ``times``; of fewer than six, whose
    order statistics bound no median so surely, their range (94% of five, 50% of two)."""
    ordered = sorted(times)
    n = len(ordered)
    half = 0.98 * math.sqrt(n)
    low = max(0, math.floor(n / 2 - half))
    high = min(n - 1, math.ceil(n / 2 + half))
    middle = 0.5 * (ordered[(n - 1) // 2] + ordered[n // 2])
    p90 = ordered[min(n - 1, math.ceil(0.9 * n) - 1)]
    return Timing(first=first, median=middle, p90=p90, n=n, low=ordered[low], high=ordered[high])


def _wait(device: torch.device | str) -> None:
    kind = torch.device(device).type
    if kind == "cuda":
        torch.cuda.synchronize(device)
    elif kind == "mps":
        torch.mps.synchronize()
