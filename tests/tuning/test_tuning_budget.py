"""What the budget is enough for."""

from __future__ import annotations

import pytest

from hasten.core.errors import UserError
from hasten.tuning.budget import Budget
from hasten.tuning.settings import TunerSettings


def test_a_fast_network_gets_the_largest_reference():
    budget = Budget(seconds=240.0, sample_s=0.002, call_s=0.003)
    assert budget.allows_full_reference
    assert budget.reference_size == (64, 150)
    assert budget.rungs(64) == (8, 32, 64)
    assert budget.throughput_batch(64) == 64


def test_less_is_measured_on_a_slow_network():
    budget = Budget(seconds=240.0, sample_s=0.04, call_s=0.05)
    assert not budget.allows_full_reference
    # 15% of 240 s are 36 s: 900 evaluations of 0.04 s. Of the sizes, 16 * 30 is the first below.
    assert budget.reference_size == (16, 30)
    assert budget.finer_reference((16, 30)) == (8, 60)
    assert budget.finer_reference((8, 60)) is None
    assert budget.rungs(8) == (8,)
    # A plan of 10 evaluations of 16 samples takes 6.4 s, of 4 samples 1.6 s; 5 s are allowed.
    assert budget.throughput_batch(64) == 4
    assert budget.throughput_batch(1) == 1


def test_a_network_too_slow_for_the_budget_is_told_how_many_minutes_it_needs():
    with pytest.raises(UserError, match=r"takes 5 s here.* 5 minutes; give --minutes 40 or more"):
        _ = Budget(seconds=240.0, sample_s=5.0, call_s=6.0).reference_size
    assert Budget(seconds=40 * 60.0, sample_s=5.0, call_s=6.0).reference_size == (4, 16)


def test_settings_decide_the_reference():
    settings = TunerSettings(reference_sizes=((16, 20),), rungs=(4,))
    budget = Budget(seconds=240.0, sample_s=0.002, call_s=0.003, settings=settings)
    assert budget.reference_size == (16, 20)
    assert budget.rungs(16) == (4, 16)
