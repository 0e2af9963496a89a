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
Layer = nn.Conv2d | nn.Linear
FLOAT = 16  # bits from which on activations are left as they are
MOST = 1e4  # what inputs are stretched by: a step at which a layer sees next to nothing


@dataclasses.dataclass(frozen=True)
class Bits:
    """Of the weights (symmetric, a scale an output channel) and of the activations (a scale and a
    zero point a tensor); 16 leaves activations alone."""

    weights: int = 8
    activations: int = 8

    def __post_init__(self) -> None:
        require_whole("bits of weights", self.weights, 2, 8)
        if self.activations != FLOAT:
            require_whole("bits of activations", self.activations, 2, 8)

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
        span: low and high of its input, the second half stretched where ``cut`` is set.
        cut: how many channels of the input come from the decoder, the rest from a skip connection.
            The two halves have scales of their own (Q-Diffusion, 2302.04304, section 4.2): the
            second is stretched by ``gain``, to about the width of the first, and its weights are
            shrunk as much, so that it stays one layer of integers.
        whole: the integers of the weights, where they are not just the nearest.
        factor: makes (n, 1) of the input, by which every picture of it is stretched before it is
            rounded; what comes of it is divided by as much.
    """

    stretch: torch.Tensor | None
    weight: torch.Tensor

    def __init__(
        self,
        layer: Layer,
        bits: Bits,
        span: Range,
        cut: int | None = None,
        gain: float = 1.0,
        whole: torch.Tensor | None = None,
        factor: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.bits, self.options, self.bias = bits, _options(layer), layer.bias
        self.factor = factor if bits.activations < FLOAT else None
        stretch = None if cut is None else stretched(layer, cut, gain)
        weight = layer.weight.detach().float()
        if stretch is not None:
            weight = weight / stretch
        self.register_buffer("stretch", stretch)
        scale, most = weight_scale(weight, bits.weights)
        nearest = weight / scale.view(-1, *[1] * (weight.ndim - 1))
        chosen = nearest.round().clamp(-most, most) if whole is None else whole
        self.register_buffer("weight", chosen.to(weight.device, torch.int8))
        self.register_buffer("scale", scale)
        self.register_buffer("zero", torch.zeros(len(scale), dtype=torch.int64))
        self.input = _affine(*span, bits.activations)

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # named as torch's own layers name it
        x = input if self.stretch is None else input * self.stretch
        if self.factor is None:
            return self._in_integers(x, self.bias)
        factor = self.factor(x)
        if len(factor) not in (1, len(x)):  # a sample has several rows here: its frames, say
            factor = factor.repeat_interleave(len(x) // len(factor), dim=0)
        factor = factor.view(-1, *[1] * (x.ndim - 1))
        answer = self._in_integers(x * factor, None) / factor
        if self.bias is None:
            return answer
        return answer + self.bias.view(-1, *[1] * (x.ndim - 2 if self.options else 0))

    def _in_integers(self, x: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        known = torch.ops.quantized_decomposed
        if self.bits.activations < FLOAT:
            x = _to_integers_and_back(x, *self.input, self.bits.activations)
        scales = (self.scale, self.zero, 0, -128, 127, torch.int8)
        weight = known.dequantize_per_channel(self.weight, *scales)
        if self.options is None:
            return nn.functional.linear(x, weight, bias)
        return nn.functional.conv2d(x, weight, bias, **self.options)


def joined(ranges: torch.Tensor, gain: float) -> torch.Tensor:
    """Low and high (rows, 2) of inputs whose pieces have the ``ranges`` (rows, pieces, 2), the
    second stretched by ``gain``."""
    wide = ranges * torch.tensor([1.0, gain])[: ranges.shape[1], None]
    return torch.stack([wide[..., 0].amin(1), wide[..., 1].amax(1)], dim=1)


def fitted(rows: torch.Tensor) -> tuple[Range, torch.Tensor]:
    """One range for the ranges (rows, 2), and the factors (rows,) that stretch each of them to it.
    Where they are unlike about 0, some of it stays unused."""
    low, high = rows[:, 0].clamp(max=0), rows[:, 1].clamp(min=0)
    width = (high - low).clamp(min=1e-12)
    alike = width.amax() / width
    span = low.mul(alike).amin(), high.mul(alike).amax()
    room = torch.stack([span[0] / low, span[1] / high]).abs().nan_to_num(nan=torch.inf).amin(0)
    return (float(span[0]), float(span[1])), room.clamp(1.0, MOST)


def stretched(layer: Layer, cut: int, gain: float) -> torch.Tensor:
    """What the channels of the input of ``layer`` are stretched by, in a shape that multiplies it
    as well as the weights."""
    weight = layer.weight
    stretch = torch.ones(weight.shape[1], device=weight.device)
    stretch[cut:] = gain
    return stretch.view(1, -1, *[1] * (weight.ndim - 2))


def weight_scale(weight: torch.Tensor, bits: int) -> tuple[torch.Tensor, int]:
    """The scale of each output channel of ``weight``, and the largest integer."""
    most = 2 ** (bits - 1) - 1
    return (weight.abs().flatten(1).amax(1) / most).clamp(min=1e-12), most


def _options(layer: Layer) -> dict[str, Any] | None:
    """How a convolution convolves; None for a linear layer."""
    if isinstance(layer, nn.Linear):
        return None
    names = ("stride", "padding", "dilation", "groups")
    return {name: getattr(layer, name) for name in names}


def in_few_bits(x: torch.Tensor, low: float, high: float, bits: Bits) -> torch.Tensor:
    """``x`` as a layer sees it whose input has the range from ``low`` to ``high``."""
    if bits.activations >= FLOAT:
        return x
    return _to_integers_and_back(x, *_affine(low, high, bits.activations), bits.activations)


def _to_integers_and_back(x: torch.Tensor, scale: float, zero: int, bits: int) -> torch.Tensor:
    known, kind = torch.ops.quantized_decomposed, (scale, zero, 0, 2**bits - 1, torch.uint8)
    return known.dequantize_per_tensor(known.quantize_per_tensor(x, *kind), *kind)


def _affine(low: float, high: float, bits: int) -> tuple[float, int]:
    """Scale and zero point with which 0 is exact."""
    low, high, most = min(low, 0.0), max(high, 0.0), 2 ** min(bits, 8) - 1
    scale = max((high - low) / most, 1e-8)
    return scale, min(max(round(-low / scale), 0), most)
