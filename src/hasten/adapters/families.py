"""Network families: how each class of network is called. One line a family."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch

from hasten.core.condition import Condition
from hasten.core.errors import require_choice

Call = Callable[[Any, torch.Tensor, torch.Tensor, torch.Tensor | None], torch.Tensor]


def _labelled(
    net: Any, x: torch.Tensor, t: torch.Tensor, cond: torch.Tensor | None
) -> torch.Tensor:
    return net(x, t, class_labels=cond, return_dict=False)[0]


def _dit(net: Any, x: torch.Tensor, t: torch.Tensor, cond: torch.Tensor | None) -> torch.Tensor:
    return net(x, timestep=t, class_labels=cond, return_dict=False)[0]


def _plain(net: Any, x: torch.Tensor, t: torch.Tensor, cond: torch.Tensor | None) -> torch.Tensor:
    return net(x, t) if cond is None else net(x, t, cond)


@dataclasses.dataclass(frozen=True)
class Family:
    """``labels``: the config option that counts its classes; ``null``: whether one more embedding
    stands for "no label"."""

    call: Call
    labels: str
    null: bool = False


FAMILIES: dict[str, Family] = {
    "UNet2DModel": Family(_labelled, "num_class_embeds"),
    "DiTTransformer2DModel": Family(_dit, "num_embeds_ada_norm", null=True),
}


def family(module: torch.nn.Module) -> Family | None:
    """The family of ``module`` or of a class it derives from; None for a plain module."""
    names = [cls.__name__ for cls in type(module).__mro__]
    return next((FAMILIES[name] for name in names if name in FAMILIES), None)


class Network(torch.nn.Module):
    """A network of any family as ``net(x, t, condition)``."""

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        self.module = module
        known = family(module)
        self._call = known.call if known else _plain

    def forward(
        self, x: torch.Tensor, t: torch.Tensor, condition: Condition | torch.Tensor | None = None
    ) -> torch.Tensor:
        return self._call(self.module, x, t, labels_in(condition))

    def split(self, kind: str, **where: Any) -> torch.nn.Module:
        """The network cut as reuse ``kind`` does it, see :mod:`hasten.core.feature_cache`."""
        from hasten.adapters.split import split

        own = getattr(self.module, "split", None)
        return SplitNetwork(
            split(self.module, kind, **where) if own is None else own(kind, **where)
        )


class SplitNetwork(torch.nn.Module):
    """A split network of any family: called with what was kept, it answers in part."""

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(
        self,
        x: torch.Tensor,
        t: torch.Tensor,
        condition: Condition | torch.Tensor | None = None,
        *kept: torch.Tensor,
    ) -> Any:
        return self.module(x, t, labels_in(condition), *kept)


def labels_in(condition: Condition | torch.Tensor | None) -> torch.Tensor | None:
    """The class labels (n,) of a condition."""
    return condition.labels if isinstance(condition, Condition) else condition


def new_network(config: dict[str, Any]) -> Network:
    """A freshly initialised network from ``{"class": "UNet2DModel", ...its options}``."""
    import diffusers

    name = config.get("class", "UNet2DModel")
    require_choice("network class", name, FAMILIES)
    options = {key: value for key, value in config.items() if key != "class"}
    return Network(getattr(diffusers, name)(**options))
