"""What pictures are compared as."""

from __future__ import annotations

import pytest
import torch

import hasten
from hasten.core.errors import UserError
from hasten.core.random_streams import generator
from hasten.learning.students.compare import comparison
from hasten.learning.students.student import learn_student
from hasten.measuring.classifiers import NETWORKS
from student_recipes import recipe


def test_features_see_beside_pixels():
    model = hasten.load("builtin:mnist")
    seen = comparison(model, "features")
    x0 = torch.rand(2, *model.shape, generator=generator(1)) * 2 - 1
    x0.requires_grad_(True)
    numbers = seen(x0)
    assert torch.equal(numbers[:, : x0[0].numel()], x0.flatten(1))
    # Each of six maps has unit length at every place: as much as a picture of unit contrast.
    total = numbers[:, x0[0].numel() :].square().sum(1) / x0[0].numel()
    assert (total <= 6.01).all()
    assert (total > 3).all()
    (numbers[0] - numbers[1]).square().sum().backward()
    assert torch.isfinite(x0.grad).all()
    assert float(x0.grad.abs().min()) > 0


def test_features_are_refused_where_there_are_none(teacher, data, tmp_path):
    with pytest.raises(UserError, match="no classifier lies beside"):
        learn_student(
            teacher, recipe("consistency", data, compare="features"), tmp_path / "s", quiet=True
        )


def test_every_classifier_has_maps_to_compare():
    for network in NETWORKS.values():
        maps = network(3, 10).eval().maps(torch.rand(2, 3, 16, 16))
        assert len(maps) >= 3
        assert all(seen.ndim == 4 and len(seen) == 2 for seen in maps)
