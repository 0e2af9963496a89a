"""How fast matrices are multiplied."""

from __future__ import annotations

import pytest

from hasten.measuring.probe import matmul_gflops


@pytest.mark.parametrize("precision", ["float32", "bfloat16, times as well: of no use"])
def test_a_product_takes_time_in_every_dtype(precision):
    gflops = matmul_gflops(precision)
    assert gflops is not None
    assert 0 < gflops < 1e6


@pytest.mark.parametrize("precision", ["int8", "w8a8", "nonsense"])
def test_what_is_no_floating_point_dtype_has_no_limit(precision):
    assert matmul_gflops(precision) is None
