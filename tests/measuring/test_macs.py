"""Multiply-accumulates: counted by hand, and those of each variant of a network."""

from __future__ import annotations

import torch

import hasten
from conftest import dit_model
from hasten.core.model import Model
from hasten.core.plan import Plan
from hasten.measuring.macs import macs, network_macs, variant_macs
from hasten.sampling import resolve

BASE = Plan(solver="ddim", grid="uniform", steps=6)


def cached(lever: str) -> Plan:
    return BASE.with_lever(lever)


def test_multiply_accumulates_are_those_counted_by_hand():
    net = torch.nn.Conv2d(1, 1, 3, padding=1)

    class Plain(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = net

        def forward(self, x, t, condition=None):
            return self.conv(x)

    model = Model(
        net=Plain(),
        schedule=hasten.schedule("ddpm"),
        prediction=hasten.prediction("epsilon"),
        shape=(1, 8, 8),
    )
    assert network_macs(model) == (9 * 64, 9 * 64)
    assert macs(hasten.build(model, BASE)) == 6 * 9 * 64


def test_a_part_costs_less_and_deeper_branches_cost_more(tiny_model):
    model = tiny_model()
    costs = [variant_macs(resolve(cached(f"deep(branch={k})"), model)) for k in range(4)]
    parts = [cost["cached"] for cost in costs]
    assert parts == sorted(parts)
    assert parts[-1] < costs[0]["full"] == network_macs(model)[0]
    sampler = hasten.build(model, cached("deep(branch=0)"))
    assert macs(sampler) == 3 * (costs[0]["full"] + costs[0]["cached"])
    quick = {"n": 0, "pictures": 0, "batch": 2, "seconds": 0.01}
    assert hasten.measure(sampler.model, sampler.plan, **quick).macs == macs(sampler)
    decides = hasten.build(dit_model(), cached("first-block"))
    assert macs(decides) is None
