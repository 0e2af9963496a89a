"""Somebody else's network, ready to sample, while it stays as it was."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch

from hasten.adapters.folder import refusing

Net = TypeVar("Net", bound=torch.nn.Module)


def frozen(
    module: Net,
    device: torch.device | None = None,
    dtype: torch.dtype | None = None,
) -> Net:
    """``module`` in eval mode without gradients; the caller's own object stays as it was."""
    tensors = [*module.parameters(), *module.buffers()]
    wide = [value for value in tensors if value.is_floating_point()]
    ready = (
        not any(part.training for part in module.modules())
        and not any(value.requires_grad for value in tensors)
        and (device is None or all(value.device == device for value in tensors))
        and (dtype is None or all(value.dtype == dtype for value in wide))
    )
    if ready:
        return module
    shared: dict[int, torch.Tensor] = {id(value): value.detach() for value in module.buffers()}
    for value in module.parameters():
        shared[id(value)] = torch.nn.Parameter(value.detach(), requires_grad=False)
    with refusing(f"{type(module).__name__} cannot be copied", "call eval() on it, and move it."):
        twin = copy.deepcopy(module, shared)
    twin.eval().requires_grad_(False)
    torch.nn.Module.to(twin, device=device, dtype=dtype)
    return twin
