"""Copies of networks that share their weights."""

from __future__ import annotations

import copy
from typing import TypeVar

from torch import nn

Module = TypeVar("Module", bound=nn.Module)


def sharing_weights(net: Module) -> Module:
    """A copy of ``net`` with the very parameters and buffers of it, so that its modules can be
    changed while ``net`` stays as it was."""
    tensors = [*net.parameters(), *net.buffers()]
    return copy.deepcopy(net, {id(tensor): tensor for tensor in tensors})
