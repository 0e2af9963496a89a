"""Feature reuse inside a stock diffusers pipeline: the pipeline stays as it is, its network is
asked in part where the schedule says so."""

from __future__ import annotations

import functools
from typing import Any

import torch

from hasten.adapters.folder import NETWORKS
from hasten.adapters.split import split
from hasten.core.engine import Prepared
from hasten.core.errors import UserError, require
from hasten.core.feature_cache import Features, Reuse, Scheduled, Split, reuses

ATTRIBUTE = "_hasten_reuse"
READ = ("sample", "hidden_states", "timestep", "encoder_hidden_states", "class_labels")
READ += ("return_dict",)


def reuse_(pipe: Any, reuse: str | Reuse | None) -> None:
    """Let the network of ``pipe`` reuse features from step to step; None takes that back.

    What is kept belongs to one run: it is dropped when the pipeline sets its timesteps, when the
    batch or the size changes, and where a step does not follow the one before (another strength).
    The first step of a run is always full. With ``every=1`` nothing is changed.

    Args:
        reuse: such as ``"deep(branch=0, every=2)"`` or ``"blocks(first=1, mask=(1, 0, ...))"``.

    Raises:
        UserError: a network that cannot be split so, reuse that is no schedule, or, in a call of
            the pipeline, an input that a split network does not read.
    """
    name = next((name for name in NETWORKS if getattr(pipe, name, None) is not None), None)
    require(name is not None, f"{type(pipe).__name__} has neither {' nor '.join(NETWORKS)}.")
    network = getattr(pipe, str(name))
    held = network.__dict__.pop(ATTRIBUTE, None)
    if held is not None:
        held.undo()
    if reuse is None:
        return
    part = reuses.parse(reuse)
    require(
        isinstance(part, Scheduled),
        f"reuse is {reuse!r}, which decides while it runs; in a pipeline give one on a schedule: "
        "deep, encoder or blocks, with every or mask.",
    )
    assert isinstance(part, Scheduled)
    if part.mask is None and part.every == 1:
        return
    network.__dict__[ATTRIBUTE] = _Reusing(pipe, network, part)


class _Reusing:
    """Stands in for ``network.forward``, and begins anew at every ``set_timesteps``."""

    def __init__(self, pipe: Any, network: Any, part: Scheduled) -> None:
        self._pipe, self._network, self._part = pipe, network, part
        self._forward = network.forward
        net = split(network, part.part_name, **part.where())
        self._split = Split(_Direct(net), part)
        self._scheduler: Any = None
        self._features: Features | None = None
        self._last, self._shape = -1, torch.Size()

        @functools.wraps(self._forward)
        def forward(*given: Any, **options: Any) -> Any:
            return self._called(*given, **options)

        network.forward = forward

    def undo(self) -> None:
        """Leave pipeline and network as they were."""
        self._network.__dict__.pop("forward", None)
        if self._scheduler is not None:
            self._scheduler.__dict__.pop("set_timesteps", None)

    def _follow_scheduler(self) -> None:
        """Pipelines may be given another scheduler at any time."""
        scheduler = self._pipe.scheduler
        if scheduler is self._scheduler:
            return
        self._scheduler, real = scheduler, scheduler.set_timesteps

        @functools.wraps(real)
        def set_timesteps(*given: Any, **options: Any) -> Any:
            self._features = None
            return real(*given, **options)

        scheduler.__dict__["set_timesteps"] = set_timesteps
        self._features = None

    def _called(self, sample: Any = None, timestep: Any = None, *given: Any, **options: Any) -> Any:
        x = options.pop("hidden_states", sample)
        condition = _condition(self._network, given, options)
        self._follow_scheduler()
        times = torch.as_tensor(self._pipe.scheduler.timesteps).double().cpu()
        now = torch.as_tensor(timestep).double().flatten().cpu()
        index = int((times - now[0]).abs().argmin())
        t = torch.as_tensor(timestep, device=x.device).to(torch.float32).expand(len(x))
        follows = index == self._last + 1 and x.shape == self._shape
        again = self._features is not None and follows and not self._full(index, len(times))
        self._last, self._shape = index, x.shape
        if again:
            assert self._features is not None
            answer = self._features.part(x, t, condition)
        else:
            if self._features is None or not follows:
                self._features = Features(self._split, self._part.forecast)
            answer = self._features.full(x, t, condition)
        return _as_asked(self._network, answer, options)

    def _full(self, index: int, count: int) -> bool:
        mask = self._part.mask
        if mask is None:
            return index % self._part.every == 0
        require(
            len(mask) == count,
            f"reuse option mask has {len(mask)} entries, and the pipeline takes {count} steps; "
            "give one for each.",
        )
        return bool(mask[index])


class _Direct(Prepared):
    """A split network as an engine would prepare it, in the pipeline's own precision."""

    precision, weights_mb = "the pipeline's", 0.0

    def __init__(self, net: torch.nn.Module) -> None:
        self.net, self.versions = net, {}

    def __call__(
        self, x: torch.Tensor, t: torch.Tensor, condition: Any = None, *kept: torch.Tensor
    ) -> Any:
        return self.net(x, t, condition, *kept)


def _condition(network: Any, given: tuple[Any, ...], options: dict[str, Any]) -> Any:
    """What a split network reads beside x and t; refuses whatever else is given."""
    named = dict(options)
    if given:
        named["encoder_hidden_states"] = given[0]
    other = [name for name, value in named.items() if name not in READ and value is not None]
    empty = [name for name in other if named[name] not in ({}, False)]
    if empty or len(given) > 1:
        raise UserError(
            f"reuse in a pipeline: {type(network).__name__} was given {empty[:1] or 'more inputs'},"
            " which a network split for reuse does not read; call hasten.reuse_(pipe, None)."
        )
    words = named.get("encoder_hidden_states")
    return named.get("class_labels") if words is None else words


def _as_asked(network: Any, answer: torch.Tensor, options: dict[str, Any]) -> Any:
    if options.get("return_dict") is False:
        return (answer,)
    from diffusers.models.modeling_outputs import Transformer2DModelOutput
    from diffusers.models.unets.unet_2d import UNet2DOutput

    kind = Transformer2DModelOutput if "Transformer" in type(network).__name__ else UNet2DOutput
    return kind(sample=answer)
