"""Quantization-aware training: layers round their weights and inputs on the way forward, and the
gradient passes as if they had not (straight-through, 1308.3432), so that weights settle where
rounding costs little."""

from __future__ import annotations

import copy

import torch
from torch import nn

from hasten.levers.quantize import layers, replace_
from hasten.levers.quantized_layer import FLOAT, Bits

TINY = 1e-8  # the least scale


def round_layers_(net: nn.Module, bits: Bits) -> None:
    """Have the layers of ``net`` that a quantization would round do so while they train; the
    weights that are trained stay float32."""
    for name, layer in layers(net):
        replace_(net, name, Rounding(layer, bits))


def unrounded(net: nn.Module) -> nn.Module:
    """A copy of ``net`` with the layers that it had before :func:`round_layers_`, trained."""
    out = copy.deepcopy(net)
    for name, part in list(out.named_modules()):
        if isinstance(part, Rounding):
            replace_(out, name, part.layer)
    return out


class Rounding(nn.Module):
    """``layer`` with weights rounded by output channel as :class:`QuantizedLayer` rounds them, and
    inputs by the range of the batch, where that one has the ranges of its step."""

    def __init__(self, layer: nn.Module, bits: Bits) -> None:
        super().__init__()
        self.layer, self.bits = layer, bits

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.bits.activations < FLOAT:
            x = rounded_input(x, self.bits.activations)
        weight = self.layer.weight
        assert isinstance(weight, torch.Tensor)
        rounded = {"weight": rounded_weight(weight, self.bits.weights)}
        return torch.func.functional_call(self.layer, rounded, (x,))


def rounded_weight(weight: torch.Tensor, bits: int) -> torch.Tensor:
    """Symmetric, with a scale an output channel."""
    most = 2 ** (bits - 1) - 1
    scale = (weight.detach().float().abs().flatten(1).amax(1) / most).clamp(min=TINY)
    zero = torch.zeros(len(scale), dtype=torch.int32, device=scale.device)
    kind = (scale, zero, 0, -most, most)
    return torch.fake_quantize_per_channel_affine(weight.float(), *kind).to(weight.dtype)


def rounded_input(x: torch.Tensor, bits: int) -> torch.Tensor:
    """Between the least and the largest number of x, 0 exact."""
    low, high = x.detach().float().aminmax()
    low, high, most = low.clamp(max=0), high.clamp(min=0), 2 ** min(bits, 8) - 1
    scale = ((high - low) / most).clamp(min=TINY)
    zero = (-low / scale).round().clamp(0, most).to(torch.int32)
    return torch.fake_quantize_per_tensor_affine(x.float(), scale, zero, 0, most).to(x.dtype)
