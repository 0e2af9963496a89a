"""A network of Stable Diffusion's size with random weights: what a budget that is far too small
leads to, on the real clock."""

from __future__ import annotations

import pytest
import torch
from diffusers import UNet2DModel

import hasten
from hasten.core.plan import Plan
from hasten.tuning.budget import OutOfTime
from hasten.tuning.tune import tune


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_network_too_slow_for_the_budget_leaves_a_guess_soon(tmp_path):
    with torch.device("meta"):
        net = UNet2DModel(
            sample_size=64,
            in_channels=4,
            out_channels=4,
            block_out_channels=(320, 640, 1280, 1280),
            layers_per_block=2,
            down_block_types=("AttnDownBlock2D",) * 3 + ("DownBlock2D",),
            up_block_types=("UpBlock2D",) + ("AttnUpBlock2D",) * 3,
        )
    net = net.to_empty(device="cpu").eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.fill_(1e-3)  # its answers do not matter, and random numbers take long
    model = hasten.load(net, schedule="ddpm", prediction="epsilon")
    assert sum(parameter.numel() for parameter in net.parameters()) > 400e6
    calls: list[int] = []
    model.net.register_forward_pre_hook(lambda *_: calls.append(1))
    with pytest.raises(OutOfTime, match="give --minutes") as caught:
        tune(model, minutes=0.5, out=tmp_path)
    assert "guess.json" in str(caught.value)
    assert Plan.read(tmp_path / "guess.json").steps == 20
    # A measurement that was begun is finished: some calls of this network, not hundreds.
    assert 0 < len(calls) < 60
