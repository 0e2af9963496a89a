"""Memory that is predicted, and memory that was used."""

from __future__ import annotations

import pytest
import torch

import hasten
from hasten.adapters.folder import save_folder
from hasten.core.errors import UserError
from hasten.core.model import Model
from hasten.core.plan import Plan
from hasten.measuring.memory import forget_peak, peak_mb, predicted_mb, require_memory


@pytest.fixture
def on_disk(tiny_model, tmp_path) -> Model:
    save_folder(tiny_model(labels=3), tmp_path / "model")
    return hasten.load(tmp_path / "model")


def test_memory_is_predicted_and_refused_when_it_will_not_fit(on_disk, monkeypatch):
    small, large = (predicted_mb(on_disk, Plan(), batch) for batch in (64, 640))
    assert small is not None
    assert large is not None
    assert 9 < large / small < 11
    guided = predicted_mb(on_disk, Plan(guidance=2.0), 64)
    assert guided is not None
    assert guided > 1.5 * small
    monkeypatch.setattr("hasten.measuring.memory.free_mb", lambda device: 2 * small)
    require_memory(on_disk, Plan(), 64)
    with pytest.raises(UserError, match=r"batch is 640, .* use 1\d\d or fewer"):
        hasten.measure(on_disk, Plan(steps=2), batch=640, n=0)


def test_the_peak_of_a_plan_is_its_own():
    held = torch.zeros(50_000_000)
    forget_peak()
    high = peak_mb()
    del held
    forget_peak()
    assert peak_mb() < high - 100
