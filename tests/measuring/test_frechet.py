"""The Fréchet distance."""

from __future__ import annotations

import pytest
import torch

from hasten.measuring.frechet import frechet, statistics


def test_frechet_distance_of_gaussians_is_the_closed_form():
    first, second = torch.diag(torch.tensor([1.0, 4.0])), torch.diag(torch.tensor([9.0, 1.0]))
    mean = torch.tensor([1.0, 2.0])
    assert frechet(mean, first, torch.zeros(2), second) == pytest.approx(5 + 4 + 1)
    rows = torch.randn(500, 3, generator=torch.Generator().manual_seed(0))
    assert frechet(*statistics(rows), *statistics(rows)) == pytest.approx(0, abs=1e-8)
