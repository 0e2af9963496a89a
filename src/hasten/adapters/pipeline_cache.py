"""A feature cache inside a stock diffusers pipeline: the pipeline stays as it is, and its network
runs in part where the schedule says so."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch

from hasten.adapters.folder import NETWORKS
from hasten.adapters.split import split
from hasten.core.condition import Condition
from hasten.core.engine import Prepared
from hasten.core.errors import UserError, require
from hasten.core.feature_cache import FeatureCache, Kept, Scheduled, Split
from hasten.core.lever import levers

Pipeline = Any  # of diffusers
ATTRIBUTE = "_hasten_cache"
READ = ("sample", "hidden_states", "timestep", "encoder_hidden_states", "class_labels")
READ += ("return_dict",)
WRAPPED = ("set_timesteps", "step")  # of the scheduler


def cache_(pipe: Pipeline, cache: str | FeatureCache | None) -> None:
    """Let the network of ``pipe`` use cached features from step to step; None takes that back.

    What is kept belongs to one run: it is dropped when the pipeline sets its timesteps, and when
    the batch or the size changes. Steps are counted by ``scheduler.step``, and several calls within
    a step (guidance by two calls, say) keep their features apart. The first step of a run is always
    full. With ``every=1`` nothing is changed.

    Args:
        cache: such as ``"deep(branch=0, every=2)"`` or ``"blocks(first=1, mask=(1, 0, ...))"``.

    Raises:
        UserError: a network that cannot be split so, a cache without a schedule, or, in a call of
            the pipeline, an input that a split network does not read.
    """
    name = next((name for name in NETWORKS if getattr(pipe, name, None) is not None), None)
    require(name is not None, f"{type(pipe).__name__} has neither {' nor '.join(NETWORKS)}.")
    network = getattr(pipe, str(name))
    before = network.__dict__.pop(ATTRIBUTE, None)
    if before is not None:
        before.undo()
    if cache is None:
        return
    part = levers.parse(cache)
    if not isinstance(part, Scheduled):
        raise UserError(
            f"cache is {cache!r}; in a pipeline it takes a feature cache on a schedule: deep, "
            "encoder, attention or blocks, with every or mask."
        )
    require(
        not getattr(part, "batched", False),
        f"cache is {cache!r}; a pipeline asks for one evaluation after another, so drop batched.",
    )
    if part.mask is None and part.every == 1:
        return
    network.__dict__[ATTRIBUTE] = _Caching(pipe, network, part)


class _Caching:
    """Stands in for ``network.forward``, and begins anew at every ``set_timesteps``."""

    def __init__(self, pipe: Pipeline, network: torch.nn.Module, part: Scheduled) -> None:
        self._pipe, self._network, self._part = pipe, network, part
        self._forward = network.forward
        net = split(network, part.part_name, **part.where())
        self._split = Split(_Direct(net), part.cut)
        self._scheduler: Any = None
        self._begin_()

        @functools.wraps(self._forward)
        def forward(*inputs: Any, **options: Any) -> object:
            return self._called(*inputs, **options)

        network.forward = forward

    def undo(self) -> None:
        """Leave pipeline and network as they were."""
        self._network.__dict__.pop("forward", None)
        self._let_go_()

    def _begin_(self) -> None:
        """A new run: nothing is kept."""
        self._steps = self._call = 0
        self._states: dict[int, Kept] = {}  # by the number of the call within a step
        self._shape = torch.Size()

    def _let_go_(self) -> None:
        for name in WRAPPED if self._scheduler is not None else ():
            self._scheduler.__dict__.pop(name, None)

    def _follow_scheduler(self) -> None:
        """Pipelines may be given another scheduler at any time."""
        scheduler = self._pipe.scheduler
        if scheduler is self._scheduler:
            return
        self._let_go_()
        self._scheduler = scheduler
        real: dict[str, Callable[..., object]] = {
            name: getattr(scheduler, name) for name in WRAPPED
        }

        @functools.wraps(real["set_timesteps"])
        def set_timesteps(*inputs: object, **options: object) -> object:
            self._begin_()
            return real["set_timesteps"](*inputs, **options)

        @functools.wraps(real["step"])
        def step(*inputs: object, **options: object) -> object:
            self._steps, self._call = self._steps + 1, 0
            return real["step"](*inputs, **options)

        scheduler.__dict__.update(set_timesteps=set_timesteps, step=step)
        self._begin_()

    def _called(
        self,
        sample: torch.Tensor | None = None,
        timestep: torch.Tensor | float | None = None,
        *inputs: torch.Tensor,
        **options: Any,
    ) -> object:
        x: torch.Tensor = options.pop("hidden_states", sample)
        condition = _condition(self._network, inputs, options)
        self._follow_scheduler()
        if x.shape != self._shape:
            self._states, self._shape = {}, x.shape
        t = torch.as_tensor(timestep, device=x.device).to(torch.float32).expand(len(x))
        number, self._call = self._call, self._call + 1
        state = self._states.get(number)
        if state is not None and not self._full():
            answer = self._split.cached(x, t, condition, *state.at(t))
        else:
            answer, features = self._split.full(x, t, condition)
            state = state or Kept(forecast=self._part.forecast)
            self._states[number] = state.after(t, features)
        return _as_asked(self._network, answer, options)

    def _full(self) -> bool:
        """Whether the schedule says that this step is full."""
        mask = self._part.mask
        begin = getattr(self._scheduler, "begin_index", None) or 0
        index = begin + self._steps
        if mask is None:
            return index % self._part.every == 0
        count = len(self._scheduler.timesteps)
        require(
            len(mask) == count,
            f"lever option mask has {len(mask)} entries, and the pipeline takes {count} steps; "
            "give one for each.",
        )
        return bool(mask[index])


class _Direct(Prepared):
    """A split network as an engine would prepare it, in the pipeline's own precision."""

    precision, weights_mb = "the pipeline's", 0.0

    def __init__(self, net: torch.nn.Module) -> None:
        self.net, self.versions = net, {}

    def __call__(
        self,
        x: torch.Tensor,
        t: torch.Tensor,
        condition: Condition | torch.Tensor | None = None,
        *features: torch.Tensor,
    ) -> torch.Tensor | tuple[torch.Tensor, ...]:
        return self.net(x, t, condition, *features)


def _condition(
    network: torch.nn.Module, inputs: tuple[torch.Tensor, ...], options: Mapping[str, Any]
) -> torch.Tensor | None:
    """What a split network reads beside x and t; refuses all other inputs."""
    named = dict(options)
    if inputs:
        named["encoder_hidden_states"] = inputs[0]
    other = [name for name, value in named.items() if name not in READ and value is not None]
    empty = [name for name in other if named[name] not in ({}, False)]
    if empty or len(inputs) > 1:
        raise UserError(
            f"feature cache in a pipeline: {type(network).__name__} was given "
            f"{empty[:1] or 'more inputs'}, which a split network does not read; "
            "call hasten.cache_(pipe, None)."
        )
    words = named.get("encoder_hidden_states")
    return named.get("class_labels") if words is None else words


def _as_asked(
    network: torch.nn.Module, answer: torch.Tensor, options: Mapping[str, object]
) -> object:
    if options.get("return_dict") is False:
        return (answer,)
    from diffusers.models.modeling_outputs import Transformer2DModelOutput
    from diffusers.models.unets.unet_2d import UNet2DOutput

    kind = Transformer2DModelOutput if "Transformer" in type(network).__name__ else UNet2DOutput
    return kind(sample=answer)
