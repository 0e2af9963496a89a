import math

import pytest
import torch
from scipy.stats import t

from hasten.core.report import finite
from hasten.measuring.interval import mean_interval, quantile


@pytest.mark.parametrize("n", [2, 4, 8, 11, 12, 16, 64, 1000])
def test_it_is_as_wide_as_students_distribution_says(n):
    assert quantile(n) == pytest.approx(t.ppf(0.975, n - 1), rel=1e-3)


def test_one_value_says_nothing_about_the_mean():
    assert mean_interval(torch.tensor([0.25])) == (0.25, -math.inf, math.inf)


def test_intervals_of_four_values_hold_the_mean_as_often_as_they_say():
    values = torch.randn(4000, 4, dtype=torch.float64)
    inside = [low <= 0.0 <= high for _, low, high in map(mean_interval, values)]
    assert 0.93 < sum(inside) / len(inside) < 0.97


def test_bounds_that_are_open_are_null_in_json():
    estimate = {"low": -math.inf, "high": math.inf, "n": 1, "values": (math.nan, 2.0)}
    assert finite(estimate) == {"low": None, "high": None, "n": 1, "values": [None, 2.0]}
