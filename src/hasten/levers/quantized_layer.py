"""A convolution or linear layer in few bits: integers where the runtime has them, their exact
simulation in torch."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
import torch.ao.quantization.fx._decomposed  # registers the operators that export as QDQ
from torch import nn

from hasten.core.errors import UserError, require_whole

Range = tuple[float, float]
FLOAT = 16  # bits from which on activations are left as they are


@dataclasses.dataclass(frozen=True)
class Bits:
    """Of the weights (symmetric, a scale an output channel) and of the activations (a scale and a
    zero point a tensor); 16 leaves activations alone."""

    weights: int = 8
    activations: int = 8

    def __post_init__(self) -> None:
        require_whole("bits of weights", self.weights, 2, 8)
        require_whole("bits of activations", self.activations, 2, FLOAT)

    @staticmethod
    def parse(text: str) -> Bits:
        """``w8a8``, ``w4a8``, ``w8a16``."""
        head, _, tail = text.lower().partition("a")
        if head[:1] != "w" or not (head[1:].isdigit() and tail.isdigit()):
            raise UserError(f"bits is {text!r}; write w8a8, w8a16 or w4a8.")
        return Bits(int(head[1:]), int(tail))

    def __str__(self) -> str:
        return f"w{self.weights}a{self.activations}"


class QuantizedLayer(nn.Module):
    """``layer`` with weights and inputs in few bits.

    Args:
        ranges: low and high of its input; of two where ``cut`` is set.
        cut: how many channels of the input come from the decoder, the rest from a skip connection:
            the two halves have scales of their own (Q-Diffusion, 2302.04304, section 4.2), so the
            layer becomes the sum of two.
    """

    def __init__(self, layer: Any, bits: Bits, ranges: list[Range], cut: int | None = None) -> None:
        super().__init__()
        self.bits, self.cut = bits, cut
        self.options = _options(layer)
        self.bias = None if layer.bias is None else nn.Parameter(layer.bias.detach(), False)
        weight = layer.weight.detach().float()
        pieces = [weight] if cut is None else [weight[:, :cut], weight[:, cut:]]
        for number, piece in enumerate(pieces):
            most = 2 ** (bits.weights - 1) - 1
            scale = (piece.abs().flatten(1).amax(1) / most).clamp(min=1e-12)
            shape = (-1, *[1] * (piece.ndim - 1))
            whole = (piece / scale.view(shape)).round().clamp(-most, most)
            self.register_buffer(f"weight{number}", whole.to(torch.int8))
            self.register_buffer(f"scale{number}", scale)
            self.register_buffer(f"zero{number}", torch.zeros(len(scale), dtype=torch.int64))
        self.inputs = [_affine(low, high, bits.activations) for low, high in ranges]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        channel = -1 if self.options is None else 1
        size = x.shape[channel]
        cuts = [size] if self.cut is None else [self.cut, size - self.cut]
        total = None
        for number, piece in enumerate(x.split(cuts, dim=channel)):
            part = self._applied(self._input(piece, number), number)
            total = part if total is None else total + part
        assert total is not None
        if self.bias is None:
            return total
        return total + (self.bias if self.options is None else self.bias.view(1, -1, 1, 1))

    def _input(self, x: torch.Tensor, number: int) -> torch.Tensor:
        if self.bits.activations >= FLOAT:
            return x
        scale, zero = self.inputs[number]
        known, most = torch.ops.quantized_decomposed, 2**self.bits.activations - 1
        kind = (scale, zero, 0, most, torch.uint8)
        return known.dequantize_per_tensor(known.quantize_per_tensor(x, *kind), *kind)

    def _applied(self, x: torch.Tensor, number: int) -> torch.Tensor:
        whole, scale, zero = (getattr(self, f"{name}{number}") for name in _BUFFERS)
        known = torch.ops.quantized_decomposed
        weight = known.dequantize_per_channel(whole, scale, zero, 0, -128, 127, torch.int8)
        if self.options is None:
            return nn.functional.linear(x, weight)
        return nn.functional.conv2d(x, weight, None, **self.options)


_BUFFERS = ("weight", "scale", "zero")


def _options(layer: Any) -> dict[str, Any] | None:
    """How a convolution convolves; None for a linear layer."""
    if isinstance(layer, nn.Linear):
        return None
    names = ("stride", "padding", "dilation", "groups")
    return {name: getattr(layer, name) for name in names}


def _affine(low: float, high: float, bits: int) -> tuple[float, int]:
    """Scale and zero point with which 0 is exact."""
    low, high, most = min(low, 0.0), max(high, 0.0), 2 ** min(bits, 8) - 1
    scale = max((high - low) / most, 1e-8)
    return scale, min(max(round(-low / scale), 0), most)
