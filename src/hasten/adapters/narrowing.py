"""What pruning may take from the networks of diffusers: channels of U-Nets, blocks of DiTs."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from hasten.adapters.untyped import Net
from hasten.core.family import Narrowing, Shortening

NetworkConfig = dict[str, Any]
"""The options of a network of diffusers, and its ``class``."""
Make = Callable[[NetworkConfig], nn.Module]
"""A network from its options, wrapped."""
TIMES = "time_embedding.linear_1.weight"


def options(module: Net) -> NetworkConfig:
    """The options that ``module`` was made with, and its class."""
    own = {key: value for key, value in module.config.items() if key[0] != "_"}
    return {**own, "class": type(module).__name__}


class UNetNarrowing(Narrowing):
    """Widths are multiples of the groups of its normalisation, and no head of attention is cut."""

    def __init__(self, unet: Net, make: Make) -> None:
        config = options(unet)
        self._whole, self._make = unet, make
        self.widths = list(config["block_out_channels"])
        self.unit = int(config.get("norm_num_groups") or 1)
        self.least = max(self.unit, int(config.get("attention_head_dim") or 1))
        # The embedding of times keeps its size: it costs little, and every block depends on it.
        size = config.get("time_embedding_dim") or 4 * self.widths[0]
        self._config = {**config, "time_embedding_dim": size}

    def narrowed(self, widths: list[int]) -> nn.Module:
        return self._make({**self._config, "block_out_channels": list(widths)})

    def together(self, module: nn.Module, name: str) -> int:
        parent = module.get_submodule(name.rpartition(".")[0])
        width = getattr(parent, "inner_dim", None)
        return width // parent.heads if width and name.rpartition(".")[2].startswith("to_") else 1

    def refit_times_(
        self, state: dict[str, torch.Tensor], narrow: nn.Module, times: torch.Tensor
    ) -> None:
        """The first layer of the time embedding reads fewer waves of other lengths: the weights
        with which it says nearly the same of all times, by least squares."""
        small: Net = narrow
        if TIMES not in state or state[TIMES].shape[1] == small.time_embedding.linear_1.in_features:
            return
        old, new = (net.time_proj(times).double() for net in (self._whole, small))
        wanted = old @ state[TIMES].double().T
        ridge = 1e-6 * len(times) * torch.eye(new.shape[1], dtype=torch.float64)
        fitted = torch.linalg.solve(new.T @ new + ridge, new.T @ wanted).T
        state[TIMES] = fitted.to(state[TIMES].dtype)


class DiTShortening(Shortening):
    """Blocks of a copy of the transformer."""

    def __init__(self, dit: Net, make: Make, wrap: Callable[[nn.Module], nn.Module]) -> None:
        self._net, self._make, self._wrap = copy.deepcopy(dit), make, wrap
        self._blocks = list(self._net.transformer_blocks)
        self._config = options(dit)
        self.count = len(self._blocks)

    def without_(self, chosen: list[int]) -> nn.Module:
        self._net.transformer_blocks = nn.ModuleList(self._blocks[i] for i in chosen)
        return self._wrap(self._net)

    def shortened(self, chosen: list[int]) -> nn.Module:
        short: Net = self._make({**self._config, "num_layers": len(chosen)})
        self.without_(chosen)
        short.module.load_state_dict(self._net.state_dict())
        return short
