"""Students that train in few bits."""

from __future__ import annotations

import pytest
import torch

import hasten
from conftest import tiny_attentive
from hasten.core.errors import UserError
from hasten.core.plan import Plan
from hasten.core.random_streams import generator
from hasten.learning.compression.quantization_aware import (
    Rounding,
    round_layers_,
    rounded_input,
    rounded_weight,
    unrounded,
)
from hasten.learning.compression.quantize import learn_quantize
from hasten.learning.students.student import learn_student
from hasten.levers.quantize import Quantize
from hasten.levers.quantized_layer import Bits, QuantizedLayer
from hasten.levers.student import Student
from student_recipes import recipe


@pytest.mark.parametrize("bits", [Bits(8, 8), Bits(4, 8), Bits(4, 16)], ids=str)
@pytest.mark.parametrize(
    "layer", [torch.nn.Conv2d(3, 5, 3), torch.nn.Linear(6, 5)], ids=["2d", "1d"]
)
def test_layers_round_as_they_will_when_they_are_quantized(layer, bits):
    x = torch.randn(2, 3, 6, 6, generator=generator(0))
    span = (float(x.min()), float(x.max()))
    with torch.no_grad():
        mine, wanted = Rounding(layer, bits)(x), QuantizedLayer(layer, bits, span)(x)
    assert torch.allclose(mine, wanted, atol=1e-5)


def test_gradients_pass_as_if_nothing_had_been_rounded():
    weight = torch.randn(4, 3, requires_grad=True)
    x = torch.randn(2, 3, requires_grad=True)
    rounded_weight(weight, 4).sum().backward()
    rounded_input(x, 4).sum().backward()
    assert torch.equal(weight.grad, torch.ones(4, 3))
    assert torch.equal(x.grad, torch.ones(2, 3))
    assert len(rounded_input(x, 2).unique()) <= 4


def test_layers_come_back_as_they_were():
    net = tiny_attentive()
    before, names = net.state_dict(), list(net.state_dict())
    round_layers_(net, Bits(4, 8))
    x, t, label = torch.randn(2, 1, 8, 8), torch.ones(2), torch.zeros(2, dtype=torch.long)
    plain = unrounded(net).eval()
    assert list(plain.state_dict()) == names
    assert all(torch.equal(value, before[name]) for name, value in plain.state_dict().items())
    assert not torch.equal(net.eval()(x, t, label), plain(x, t, label))


@pytest.mark.slow
def test_a_student_of_few_bits_is_nearer_to_its_teacher_when_it_is_quantized(
    teacher, data, tmp_path
):
    plan = Plan(solver="ddim", grid="uniform", steps=3)

    def apart(student: str | None) -> float:
        mine = plan if student is None else plan.with_lever(Student(folder=student))
        file = str(tmp_path / f"{student is None}.safetensors")
        learn_quantize(teacher, mine, file, bits="w2a8", n=8, rounding="nearest")
        quantized = mine.with_lever(Quantize(file=file))
        noise = torch.randn(16, *teacher.shape, generator=generator(3))
        given = {"noise": noise, "condition": [0, 1] * 8}
        pictures = [hasten.build(teacher, p).sample(**given) for p in (quantized, plan)]
        return float((pictures[0] - pictures[1]).square().mean().sqrt())

    own = {"objective": "knowledge-distillation(features=0.0)", "bits": "W2A8", "pictures": 16 * 60}
    made = recipe("knowledge-distillation", data, **own)
    out = learn_student(teacher, made, tmp_path / "student", quiet=True)
    assert "w2a8" in (out / "README.md").read_text()
    assert apart(str(out)) < 0.95 * apart(None)


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"bits": "w9a8"}, "w9a8|weights is 9"), ({"bits": "w4a8", "lora": 2}, "bits and lora")],
)
def test_what_cannot_be_trained_is_refused(changes, words, teacher, data, tmp_path):
    with pytest.raises(UserError, match=words):
        learn_student(
            teacher, recipe("knowledge-distillation", data, **changes), tmp_path / "s", quiet=True
        )
    assert not (tmp_path / "s").exists()
