"""Network families of diffusers: one line each in the table at the end."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from hasten.adapters.attention import fold_tokens_, tokens_seen
from hasten.adapters.attention_backend import choose_backend_
from hasten.adapters.conditioning import DiTConditioning, UNetConditioning
from hasten.adapters.narrowing import DiTShortening, NetworkConfig, UNetNarrowing, options
from hasten.adapters.quiet import diffusers
from hasten.adapters.region_network import InRegions
from hasten.adapters.split import Span, span, split
from hasten.core.condition import COND, Condition, PerSample, as_condition
from hasten.core.errors import UserError, require, require_choice
from hasten.core.family import (
    PLAIN,
    Conditioning,
    Family,
    Folding,
    Narrowing,
    Prompts,
    Shortening,
    Text,
    inner,
)

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DiffusersFamily(Family):
    """A class of diffusers.

    Attributes:
        labels: the option of its configuration that counts its classes.
        null: whether one more embedding stands for "no label".
        stacks: where its blocks are, in running order.
        loadable: it can be loaded and made anew by itself.
    """

    name: str
    labels: str = ""
    null: bool = False
    unquantized: tuple[str, ...] = ()
    low_rank: tuple[str, ...] = ()
    stacks: tuple[str, ...] = ()
    loadable: bool = True

    def call(
        self, net: nn.Module, x: torch.Tensor, t: torch.Tensor, condition: Condition
    ) -> torch.Tensor:
        inputs = condition.values(x, t)
        if "labels" in inputs:
            inputs["class_labels"] = inputs.pop("labels")
        return net(x, t, **inputs, return_dict=False)[0]

    def blocks(self, net: nn.Module) -> list[nn.Module]:
        stacks = [getattr(inner(net), name, None) for name in self.stacks]
        lists = [list(stack) if isinstance(stack, nn.ModuleList) else [stack] for stack in stacks]
        return [block for blocks in lists for block in blocks if block is not None]

    def split(self, net: nn.Module, kind: str, **where: object) -> nn.Module:
        cut: Any = split(inner(net), kind, **where)
        cut.family = self
        return cut

    def regions(self, net: nn.Module) -> nn.Module:
        return InRegions(net)

    def attention_backend_(self, net: nn.Module, name: str) -> None:
        choose_backend_(net, name)

    def fresh(self, net: nn.Module) -> nn.Module:
        able = ", ".join(name for name, family in FAMILIES.items() if family.loadable)
        require(self.loadable, f"hasten makes new networks of {able}; this is a {self.name}.")
        return new_network(options(inner(net)))

    def tokens(self, net: nn.Module, run: Callable[[], object]) -> dict[nn.Module, int]:
        return tokens_seen(net, run)

    def fold_tokens_(self, attention: nn.Module, folding: Folding) -> None:
        fold_tokens_(attention, folding)


class UNet(DiffusersFamily):
    """Labels go into the embedding of times."""

    def conditioning(self, net: nn.Module) -> Conditioning:
        return UNetConditioning(inner(net), takes_label=False)

    def narrowing(self, net: nn.Module) -> Narrowing | None:
        return UNetNarrowing(inner(net), new_network)


class ConditionalUNet(DiffusersFamily):
    """The condition is what the cross-attention reads."""

    def conditioning(self, net: nn.Module) -> Conditioning:
        return UNetConditioning(inner(net), takes_label=True)


class PromptedUNet(ConditionalUNet):
    """A conditional U-Net in :class:`hasten.adapters.prompted.Prompted`, which looks up the words
    that a label stands for."""

    def call(
        self, net: nn.Module, x: torch.Tensor, t: torch.Tensor, condition: Condition
    ) -> torch.Tensor:
        words = condition.branches[COND].get("words")
        return net(x, t, condition.labels if words is None else words.value(x, t))

    def text(self, net: nn.Module) -> Text | None:
        return prompted_in(net).text


def prompted_in(net: nn.Module) -> Any:
    """The module with the table of prompts, in the wrappers around it."""
    while not hasattr(net, "table"):
        net = net.module  # type: ignore[assignment]
    return net


@dataclasses.dataclass(frozen=True, kw_only=True)
class CapturedFamily(DiffusersFamily):
    """A network in :class:`hasten.adapters.capture.CapturedNet`, which looks up what a label stands
    for."""

    @classmethod
    def of(cls, net: nn.Module, known: DiffusersFamily | None) -> CapturedFamily:
        """The family of a captured ``net``, with what is ``known`` of its class."""
        fields = ("unquantized", "low_rank", "stacks")
        told = {} if known is None else {name: getattr(known, name) for name in fields}
        return cls(name=type(net).__name__, loadable=False, **told)

    def call(
        self, net: nn.Module, x: torch.Tensor, t: torch.Tensor, condition: Condition
    ) -> torch.Tensor:
        return net(x, t, _read_by_captured(condition, x, t))

    def prompts(self, net: nn.Module) -> Prompts | None:
        return getattr(net.module if isinstance(net, Network) else net, "prompts", None)

    def captured(self, net: nn.Module) -> dict[str, str]:
        whole: Any = net.module if isinstance(net, Network) else net
        put = whole.net.layout
        slope, offset = put.t.slope, put.t.offset
        times = "t" if (slope, offset) == (1.0, 0.0) else f"{slope:g} t + {offset:g}"
        out = {put.x.path: "x", put.t.path: times}
        out |= {path: "constant" for path, value in put.constant.items() if value is not None}
        out |= {path: "from the prompts" for path in put.table if path != put.x.path}
        if put.x.channels:
            out[put.x.path] = f"x, and {put.x.channels} channels from the call"
        return out | dict.fromkeys(put.linked, "from the network beside it")

    def split(self, net: nn.Module, kind: str, **where: object) -> nn.Module:
        _require_one_call(net, kind)
        return CapturedSplit(net, span(inner(net), kind, **where))

    def regions(self, net: nn.Module) -> nn.Module:
        _require_one_call(net, "regions")
        return super().regions(net)


def _require_one_call(net: nn.Module, lever: str) -> None:
    """Refuse to keep features of a call where several calls make one answer."""
    whole: Any = net.module if isinstance(net, Network) else net
    require(
        len(getattr(whole, "mixed", ())) < 2,
        f"lever {lever!r} keeps features of one call, and here several calls make one answer "
        "(guidance of two scales); drop it.",
    )


class TurnsFamily(CapturedFamily):
    """Two networks in :class:`hasten.adapters.capture.CapturedTurns`."""

    def captured(self, net: nn.Module) -> dict[str, str]:
        whole: Any = net.module if isinstance(net, Network) else net
        return super().captured(whole.first) | {"networks": f"two, from t = {whole.boundary:g} on"}

    def split(self, net: nn.Module, kind: str, **where: object) -> nn.Module:
        raise UserError(
            f"lever {kind!r} cuts one network, and here two take turns; put it onto the pipeline "
            "with hasten.apply or hasten.cache_."
        )

    def regions(self, net: nn.Module) -> nn.Module:
        raise UserError(
            "lever 'regions' computes one network in regions, and here two take turns; drop it."
        )


class CapturedSplit(nn.Module):
    """A captured network that keeps what its blocks add."""

    def __init__(self, net: nn.Module, kept: Span) -> None:
        super().__init__()
        self.net, self._span = net, kept

    @property
    def module(self) -> nn.Module:
        """The network that is split."""
        return inner(self.net)

    def forward(
        self,
        x: torch.Tensor,
        t: torch.Tensor,
        condition: Condition | torch.Tensor | None = None,
        *features: torch.Tensor,
    ) -> torch.Tensor | tuple[torch.Tensor, ...]:
        captured = isinstance(condition, Condition)
        given = _read_by_captured(condition, x, t) if captured else condition
        answer = self._span(lambda: self.net(x, t, given), len(x), features)
        if isinstance(answer, tuple):
            answer, new = answer
            return answer, *new
        return answer


def _read_by_captured(
    condition: Condition, x: torch.Tensor, t: torch.Tensor
) -> torch.Tensor | dict[str, object] | None:
    """What a captured network is given: labels, or what belongs to other prompts, by path."""
    leaves = condition.branches[COND]
    return condition.values(x, t) if leaves and "labels" not in leaves else condition.labels


class DiT(DiffusersFamily):
    """Labels go into the embedding that every block has of its own."""

    def conditioning(self, net: nn.Module) -> Conditioning:
        return DiTConditioning(inner(net))

    def shortening(self, net: nn.Module) -> Shortening | None:
        return DiTShortening(inner(net), new_network, Network)


UNET: dict[str, Any] = {
    "labels": "num_class_embeds",
    "unquantized": (
        *("conv_in", "conv_out", "time_emb", "time_embedding", "class_embedding"),
        *("time_emb_proj", "norm1", "emb"),
    ),
    "low_rank": (
        *(*ATTENTION, "proj_in", "proj_out", "conv1", "conv2", "conv_shortcut"),
        *("downsamplers.0.conv", "upsamplers.0.conv", "time_emb_proj", "linear_1", "linear_2"),
    ),
    "stacks": ("down_blocks", "mid_block", "up_blocks"),
}
TRANSFORMER: dict[str, Any] = {
    "unquantized": ("pos_embed", "norm1", "emb", "proj_out_1", "proj_out_2"),
    "low_rank": (*ATTENTION, "linear_1", "linear_2"),
    "stacks": ("transformer_blocks",),
}
FAMILIES: dict[str, DiffusersFamily] = {
    "UNet2DModel": UNet(name="UNet2DModel", **UNET),
    "UNet2DConditionModel": ConditionalUNet(name="UNet2DConditionModel", loadable=False, **UNET),
    "DiTTransformer2DModel": DiT(
        name="DiTTransformer2DModel", labels="num_embeds_ada_norm", null=True, **TRANSFORMER
    ),
}
PROMPTED = PromptedUNet(name="UNet2DConditionModel", loadable=False, **UNET)


def loadable() -> list[str]:
    """The classes that can be loaded and made anew by themselves."""
    return [name for name, family in FAMILIES.items() if family.loadable]


def family(module: nn.Module) -> DiffusersFamily | None:
    """The family of ``module`` or of a class it derives from; None for a plain module."""
    names = [cls.__name__ for cls in type(module).__mro__]
    return next((FAMILIES[name] for name in names if name in FAMILIES), None)


class Network(nn.Module):
    """A network of any family as ``net(x, t, condition)``, which carries its family."""

    def __init__(self, module: nn.Module, known: Family | None = None) -> None:
        super().__init__()
        self.module = module
        own = known or getattr(module, "family", None)
        self.family: Family = own if isinstance(own, Family) else family(module) or PLAIN
        self._call = self.family.call

    def forward(
        self, x: torch.Tensor, t: torch.Tensor, condition: Condition | torch.Tensor | None = None
    ) -> torch.Tensor:
        return self._call(self.module, x, t, as_condition(condition, len(x)))

    def split(self, kind: str, **where: object) -> nn.Module:
        """The network cut as the feature cache ``kind`` does it, see
        :mod:`hasten.core.feature_cache`."""
        own = getattr(self.module, "split", None)
        if own is not None:
            return SplitNetwork(own(kind, **where))
        if self.family is PLAIN:  # its refusal names the classes that can be split
            return SplitNetwork(split(self.module, kind, **where))
        return SplitNetwork(self.family.split(self.module, kind, **where))


class SplitNetwork(nn.Module):
    """A split network of any family: called with what was kept, it answers in part."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(
        self,
        x: torch.Tensor,
        t: torch.Tensor,
        condition: Condition | torch.Tensor | None = None,
        *features: torch.Tensor,
    ) -> torch.Tensor | tuple[torch.Tensor, ...]:
        if not isinstance(self.module, CapturedSplit):
            condition = read_by_split(condition)
        return self.module(x, t, condition, *features)


def read_by_split(condition: Condition | torch.Tensor | None) -> torch.Tensor | None:
    """What a split network reads of a condition: its labels, or its text embeddings."""
    if not isinstance(condition, Condition):
        return condition
    if condition.labels is not None:
        return condition.labels
    leaves = condition.branches[COND]
    others = sorted(set(leaves) - {"encoder_hidden_states"})
    require(
        not others,
        f"a network that is split for a feature cache reads labels or encoder_hidden_states, and "
        f"the condition has {', '.join(others)}; drop the cache.",
    )
    leaf = leaves.get("encoder_hidden_states")
    return leaf.tensor if isinstance(leaf, PerSample) else None


def new_network(config: NetworkConfig) -> Network:
    """A freshly initialised network from ``{"class": "UNet2DModel", ...its options}``."""
    name = config.get("class", "UNet2DModel")
    require_choice("network class", name, loadable())
    chosen = {key: value for key, value in config.items() if key != "class"}
    return Network(getattr(diffusers(), name)(**chosen))
