"""What others may ask of a network without knowing its class.

A family says how a network is called, which blocks it has, which layers may be quantized or made
narrower, and how it hears of time and label. Adapters fill it, one line a family; a network that
they wrap carries its family, and :attr:`hasten.core.model.Model.family` hands it on. Whoever needs
to know something about a network asks there.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import NoReturn

import torch
from torch import nn

from hasten.core.condition import COND, NULL, Condition, PerSample
from hasten.core.errors import UserError

AT_ONCE = 256  # prompts that a text encoder takes

Fold = Callable[[torch.Tensor], torch.Tensor]
Folding = Callable[[torch.Tensor], tuple[Fold, Fold]]
"""Tokens (n, tokens, c) to the pair of functions that merge such tokens and take them apart."""


class Conditioning(ABC):
    """How a network hears of time and label: through the layers that take their embedding.

    Attributes:
        layers: (owner, attribute) of every layer that takes the embedding, in running order; each
            gives one row (n, width) of its own.
        labels: how many labels the embedding knows; 1 where no label goes into it.
        takes_label: the rest of the network reads the condition as well (cross-attention), so it
            is passed on.
    """

    layers: list[tuple[nn.Module, str]]
    labels: int = 1
    takes_label: bool = False

    @abstractmethod
    def rows(self, time: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """What all layers give side by side, (n, width), for one time (1,) and labels (n,)."""

    @abstractmethod
    def remove_(self) -> None:
        """Take the embeddings out of the network; time and label are then read by nobody."""


class Narrowing(ABC):
    """The channels of a network that can be pruned: widths of its configuration.

    Attributes:
        widths: channels of each resolution; unit: what they have to be multiples of; least: the
            smallest that each may become.
    """

    widths: list[int]
    unit: int
    least: int

    @abstractmethod
    def narrowed(self, widths: list[int]) -> nn.Module:
        """A freshly initialised network of these widths, wrapped as :class:`Family` has it."""

    @abstractmethod
    def together(self, module: nn.Module, name: str) -> int:
        """How many channels of the layer ``name`` of ``module`` go together: those of a head of
        attention, else 1."""

    @abstractmethod
    def refit_times_(
        self, state: dict[str, torch.Tensor], narrow: nn.Module, times: torch.Tensor
    ) -> None:
        """Change the weights ``state`` so that ``narrow`` hears nearly the same of ``times`` as the
        whole network, where the embedding of times has another size there."""


class Prompts(ABC):
    """How prompts become the condition of a network."""

    @abstractmethod
    def condition(self, prompts: Sequence[str], negative: Sequence[str] | None = None) -> Condition:
        """The condition of ``prompts`` (n,), whose null branch is the ``negative`` prompt of each,
        by default the empty one."""

    def cut_off(self, prompts: Sequence[str]) -> str:
        """What to say of the first of ``prompts`` that is too long to be read whole; "" where none
        is."""
        return ""


class Text(Prompts):
    """How a network's prompts become what it reads.

    Attributes:
        encoder: tokens (n, length) int64 to words (n, length, width).
        length: tokens of a prompt.
    """

    encoder: nn.Module
    length: int

    @abstractmethod
    def tokens(self, prompts: Sequence[str]) -> torch.Tensor:
        """``prompts`` as tokens (n, length), cut and padded."""

    @abstractmethod
    def facts(self) -> dict[str, object]:
        """What a runner in another language needs to do the same: ``length``; the tokens ``start``,
        ``end``, ``pad`` and ``unknown``; ``vocabulary`` and ``merges`` of byte pair encoding."""

    @torch.no_grad()
    def words(self, prompts: Sequence[str]) -> torch.Tensor:
        """What the network reads of ``prompts`` (n, length, width), float32."""
        device = next(self.encoder.parameters()).device
        parts = [prompts[begin : begin + AT_ONCE] for begin in range(0, len(prompts), AT_ONCE)]
        encoded = [self.encoder(self.tokens(part).to(device)).float() for part in parts]
        return torch.cat(encoded)

    def condition(self, prompts: Sequence[str], negative: Sequence[str] | None = None) -> Condition:
        """The condition of ``prompts`` (n,), whose null branch is the ``negative`` prompt of each,
        by default the empty one."""
        unwanted = negative or [""] * len(prompts)
        different = list(dict.fromkeys([*prompts, *unwanted]))
        places = {prompt: place for place, prompt in enumerate(different)}
        words = self.words(different)
        wanted = words[[places[prompt] for prompt in prompts]]
        none = words[[places[prompt] for prompt in unwanted]]
        branches = {COND: {"words": PerSample(wanted)}, NULL: {"words": PerSample(none)}}
        return Condition(len(prompts), branches)


class Shortening(ABC):
    """The blocks of a network that can be left out, since they are all alike; ``count`` of them."""

    count: int

    @abstractmethod
    def without_(self, chosen: list[int]) -> nn.Module:
        """The network with the ``chosen`` blocks alone, wrapped; it shares their weights with
        those of other choices."""

    @abstractmethod
    def shortened(self, chosen: list[int]) -> nn.Module:
        """A network of its own with the ``chosen`` blocks, in its configuration as well."""


class Family(ABC):
    """One kind of network. Every method takes the network with or without the wrappers around it.

    Attributes:
        name: of the class, for messages.
        unquantized: a layer with one of these names in its path is never quantized: the first and
            last, the embeddings of time and label, and what normalises.
        low_rank: the layers that take low-rank weights, by the ends of their names.
    """

    name: str
    unquantized: tuple[str, ...] = ()
    low_rank: tuple[str, ...] = ()

    @abstractmethod
    def call(
        self, net: nn.Module, x: torch.Tensor, t: torch.Tensor, condition: Condition
    ) -> torch.Tensor:
        """The answer of the network (without wrappers) to x (n, *shape), times (n,), condition."""

    def text(self, net: nn.Module) -> Text | None:
        """How its prompts become the ``words`` of a condition; None where it has no prompts, or
        they are read in a way that cannot be exported."""
        return None

    def prompts(self, net: nn.Module) -> Prompts | None:
        """How prompts that it was not loaded for become its condition; None where they cannot."""
        return self.text(net)

    def captured(self, net: nn.Module) -> dict[str, str]:
        """What it was found to be given, where a pipeline's own call was watched."""
        return {}

    def blocks(self, net: nn.Module) -> list[nn.Module]:
        """Its blocks in the order in which they run; none where it is not known."""
        return []

    def conditioning(self, net: nn.Module) -> Conditioning:
        """How it hears of time and label.

        Raises:
            UserError: it does so in a way that cannot be computed ahead.
        """
        self._cannot("compute ahead what the time says to", "it does not say which layers read it")

    def split(self, net: nn.Module, kind: str, **where: object) -> nn.Module:
        """The network cut as the feature cache ``kind`` does it, see
        :mod:`hasten.core.feature_cache`.

        Raises:
            UserError: it cannot be split so, or not there.
        """
        self._cannot(f"split by {kind!r}", "give it a method split(kind, **where)")

    def regions(self, net: nn.Module) -> nn.Module:
        """The network as one that can also be computed where its input differs from an earlier one:
        ``(x, t, condition, mask) -> (answer, *features)`` and ``(x, t, condition, mask, *features)
        -> answer``, with ``mask`` (n, 1, h, w) True where it differs.

        Raises:
            UserError: it cannot.
        """
        self._cannot("compute in regions", "it takes U-Nets of diffusers; drop regions")

    def attention_backend_(self, net: nn.Module, name: str) -> None:
        """Let every attention of ``net``, changed in place, be computed by the kernel ``name``.

        Raises:
            UserError: there is none of that name, or it cannot be chosen here.
        """
        self._cannot(f"choose {name!r} for", "its kernels are torch's: torch-math, torch-flash")

    def narrowing(self, net: nn.Module) -> Narrowing | None:
        """The widths that pruning may change; None where it has none."""
        return None

    def shortening(self, net: nn.Module) -> Shortening | None:
        """The blocks that pruning may leave out; None where it has none."""
        return None

    def fresh(self, net: nn.Module) -> nn.Module:
        """A freshly initialised network of the same configuration, wrapped.

        Raises:
            UserError: its class cannot be made anew.
        """
        self._cannot("make anew", "load a network of diffusers")

    def tokens(self, net: nn.Module, run: Callable[[], object]) -> dict[nn.Module, int]:
        """How many tokens each self-attention of a transformer block sees while ``run`` calls the
        network."""
        return {}

    def fold_tokens_(self, attention: nn.Module, folding: Folding) -> None:
        """Let ``attention`` (one of :meth:`tokens`) see its tokens folded."""
        self._cannot("fold the tokens of", "it has no self-attention that is known")

    def _cannot(self, what: str, why: str) -> NoReturn:
        raise UserError(f"hasten cannot {what} this network ({self.name}): {why}.")

    def __deepcopy__(self, memo: dict[int, object]) -> Family:
        return self


class Plain(Family):
    """Any module called as ``net(x, t)``, ``net(x, t, labels)`` or, where its condition is more
    than labels, ``net(x, t, condition)``; it says nothing of itself."""

    name = "a plain module"

    def call(
        self, net: nn.Module, x: torch.Tensor, t: torch.Tensor, condition: Condition
    ) -> torch.Tensor:
        tree = condition.branches[COND]
        if not tree:
            return net(x, t)
        return net(x, t, condition.labels if set(tree) == {"labels"} else condition)


PLAIN = Plain()


def family_of(net: nn.Module) -> Family:
    """The family that ``net`` carries, or the network inside the wrappers around it."""
    for part in _inwards(net):
        known = getattr(part, "family", None)
        if isinstance(known, Family):
            return known
    return PLAIN


def inner(net: nn.Module) -> nn.Module:
    """The network within the wrappers that pass time and label through: each holds the next as
    ``net`` or ``module``, and the one inside carries no family."""
    return list(_inwards(net))[-1]


def _inwards(net: nn.Module) -> Iterator[nn.Module]:
    part: object = net
    while isinstance(part, nn.Module):
        yield part
        part = next(
            (
                value
                for name in ("net", "module")
                if isinstance(value := getattr(part, name, None), nn.Module)
            ),
            None,
        )
