"""GPTQ (Frantar et al. 2210.17323): weights are rounded one input at a time, and what the rounding
of one does to the layer's answers is made up for by the inputs that are not yet rounded."""

from __future__ import annotations

from typing import cast

import torch
from torch import nn

from hasten.levers.quantized_layer import Layer

DAMPING = 0.01  # of the mean of the diagonal, as in their section 3.3
MOST = 4096  # inputs of a layer: above it the matrix of their products is too large
PICTURES = 16  # of a call that are looked at


def products(layer: Layer, x: torch.Tensor) -> torch.Tensor:
    """The sums of products (k, k) of the ``k`` numbers that each answer of ``layer`` is a weighted
    sum of: X X' of their eq. 1, half of the second derivative of the layer's squared error."""
    x = x[:PICTURES].detach().float()
    if isinstance(layer, nn.Linear):
        seen = x.reshape(-1, x.shape[-1])
    else:
        windows = nn.functional.unfold(
            x,
            layer.kernel_size,
            layer.dilation,
            cast("tuple[int, ...]", layer.padding),
            layer.stride,
        )
        seen = windows.transpose(1, 2).reshape(-1, windows.shape[1])
    return seen.T @ seen


def fits(layer: Layer) -> bool:
    """Whether ``layer`` can be rounded so: every answer is a sum over all inputs, not too many."""
    return getattr(layer, "groups", 1) == 1 and layer.weight[0].numel() <= MOST


def rounded(
    weight: torch.Tensor, scale: torch.Tensor, most: int, products: torch.Tensor
) -> torch.Tensor:
    """``weight`` (out, ...) as whole numbers of ``scale`` (out,) from -most to most, int8.

    The algorithm of their section 3.3, inputs in the order of their size ("act-order").
    """
    flat, k = weight.flatten(1), weight[0].numel()
    order = products.diagonal().argsort(descending=True)
    second = products.double()[order][:, order]
    second.diagonal().add_(DAMPING * second.diagonal().mean().clamp(min=1e-12))
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(second))
    upper = torch.linalg.cholesky(inverse, upper=True).float()
    left, whole = flat[:, order].clone(), torch.empty_like(flat)
    for i in range(k):
        whole[:, order[i]] = (left[:, i] / scale).round().clamp(-most, most)
        error = (left[:, i] - whole[:, order[i]] * scale) / upper[i, i]
        left[:, i + 1 :] -= error[:, None] * upper[i, i + 1 :]
    return whole.view(weight.shape).to(torch.int8).cpu()
