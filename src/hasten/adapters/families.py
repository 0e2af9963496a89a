"""Network families: how each class of network is called. One line a family."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from hasten.core.errors import require_choice

Call = Callable[[Any, torch.Tensor, torch.Tensor, torch.Tensor | None], torch.Tensor]


def _labelled(net: Any, x: torch.Tensor, t: torch.Tensor, cond: torch.Tensor | None) -> torch.Tensor:
    return net(x, t, class_labels=cond, return_dict=False)[0]


def _dit(net: Any, x: torch.Tensor, t: torch.Tensor, cond: torch.Tensor | None) -> torch.Tensor:
    return net(x, timestep=t, class_labels=cond, return_dict=False)[0]


def _plain(net: Any, x: torch.Tensor, t: torch.Tensor, cond: torch.Tensor | None) -> torch.Tensor:
    return net(x, t) if cond is None else net(x, t, cond)


FAMILIES: dict[str, Call] = {
    "UNet2DModel": _labelled,
    "DiTTransformer2DModel": _dit,
}


class Network(torch.nn.Module):
    """A network of any family as ``net(x, t, cond)``."""

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        self.module = module
        self._call = FAMILIES.get(type(module).__name__, _plain)

    def forward(
        self, x: torch.Tensor, t: torch.Tensor, cond: torch.Tensor | None = None
    ) -> torch.Tensor:
        return self._call(self.module, x, t, cond)


def new_network(config: dict[str, Any]) -> Network:
    """A freshly initialised network from ``{"class": "UNet2DModel", ...its options}``."""
    import diffusers

    name = config.get("class", "UNet2DModel")
    require_choice("network class", name, FAMILIES)
    options = {key: value for key, value in config.items() if key != "class"}
    return Network(getattr(diffusers, name)(**options))
