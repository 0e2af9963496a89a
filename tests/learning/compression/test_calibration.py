"""What calibration sees of a network, and that it leaves torch alone."""

from __future__ import annotations

import threading

import torch

from conftest import tiny_attentive
from hasten.core.model import Model
from hasten.core.noise_schedule import ddpm_schedule
from hasten.core.prediction import prediction
from hasten.learning.compression.quantize import Calibration, _Concatenations


def test_concatenated_skip_connections_are_found_without_touching_torch():
    kind = {"schedule": ddpm_schedule(), "prediction": prediction("epsilon"), "shape": (1, 8, 8)}
    net = tiny_attentive().eval().requires_grad_(False)
    run = Calibration(Model(net=net, labels=2, null_label=2, name="tiny", **kind), None, False)
    real = torch.cat
    with run.watching():
        assert torch.cat is real
        net(torch.randn(2, 1, 8, 8), torch.ones(2), torch.zeros(2, dtype=torch.long))
    cuts = {name: seen.cut for name, seen in run.seen.items() if seen.cut is not None}
    # The shortcuts of the decoder read what comes from below (8 channels) beside a skip connection.
    assert cuts
    assert all("up_blocks" in name and "conv_shortcut" in name for name in cuts)
    assert set(cuts.values()) == {8}


def test_concatenations_of_another_thread_are_not_seen():
    x, others = torch.zeros(1, 2, 3, 3), []
    with _Concatenations() as joined:
        thread = threading.Thread(target=lambda: others.append(torch.cat([x, x], dim=1)))
        thread.start()
        thread.join()
        mine = torch.cat([x, x[:, :1]], dim=1)
    assert joined.first_channels(mine) == 2
    assert joined.first_channels(others[0]) is None
    assert joined.first_channels(x) is None
