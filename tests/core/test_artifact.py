"""What stands for the weights of a model."""

from __future__ import annotations

import torch

import hasten
from hasten.core.artifact import digest, weights_stamp


class Normed(torch.nn.Module):
    """Has a counter without dimensions, as batch normalization does."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = torch.nn.BatchNorm2d(1)

    def forward(self, x, t, condition=None):
        return self.norm(x)


def test_weights_of_any_rank_have_a_digest_that_follows_them():
    model = hasten.load(Normed().eval(), schedule="ddpm", prediction="epsilon", shape=(1, 8, 8))
    before = digest(model)
    with torch.no_grad():
        model.net.module.norm.weight.mul_(2)
    assert digest(model) != before


def test_a_stamp_changes_with_weights_that_are_changed_in_place_or_replaced():
    net = Normed()
    stamps = [weights_stamp(net)]
    with torch.no_grad():
        net.norm.bias.add_(1)
    stamps.append(weights_stamp(net))
    net.load_state_dict(Normed().state_dict())
    stamps.append(weights_stamp(net))
    net.norm.bias = torch.nn.Parameter(torch.zeros(1))
    stamps.append(weights_stamp(net))
    assert len(set(stamps)) == 4
    assert weights_stamp(net) == stamps[-1]
