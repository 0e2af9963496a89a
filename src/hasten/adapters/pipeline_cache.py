"""A feature cache inside a stock diffusers pipeline: the pipeline stays as it is, and its network
runs in part where the schedule says so."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import torch

from hasten.adapters.folder import NETWORKS
from hasten.adapters.split import span
from hasten.core.errors import UserError, require
from hasten.core.feature_cache import FeatureCache, Kept, Scheduled
from hasten.core.lever import levers

Pipeline = Any  # of diffusers
ATTRIBUTE = "_hasten_cache"
ADAPTER = "down_intrablock_additional_residuals"
TIMES = ("timestep", "t")  # what networks call their times
WRAPPED = ("set_timesteps", "step")  # of the scheduler


def cache_(pipe: Pipeline, cache: str | FeatureCache | None) -> None:
    """Let the network of ``pipe`` use cached features from step to step; None takes that back.

    What is kept belongs to one run: it is dropped when the pipeline sets its timesteps, and when
    the batch or the size changes. Steps are counted by ``scheduler.step``, and several calls within
    a step (guidance by two calls, say) keep their features apart. The first step of a run is always
    full. With ``every=1`` nothing is changed.

    Args:
        cache: such as ``"deep(branch=0, every=2)"``, ``"blocks(first=1, mask=(1, 0, ...))"`` or
            ``"first-block(threshold=0.1)"``.

    Raises:
        UserError: a network that cannot be split so.
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
    if not isinstance(part, FeatureCache):
        raise UserError(
            f"cache is {cache!r}; it takes a feature cache: deep or encoder for a U-Net, blocks, "
            "first-block or attention for a transformer."
        )
    require(
        not getattr(part, "batched", False),
        f"cache is {cache!r}; a pipeline asks for one evaluation after another, so drop batched.",
    )
    if isinstance(part, Scheduled) and part.mask is None and part.every == 1:
        return
    network.__dict__[ATTRIBUTE] = _Caching(pipe, network, part)


class _Caching:
    """Stands in for ``network.forward``, and begins anew at every ``set_timesteps``."""

    def __init__(self, pipe: Pipeline, network: torch.nn.Module, part: FeatureCache) -> None:
        self._pipe, self._network, self._part = pipe, network, part
        self._signature = inspect.signature(type(network).forward)
        self._forward = network.forward
        self._span = span(network, part.part_name, **part.where())
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
        self._shapes: list[torch.Size] = []

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

    def _called(self, *inputs: Any, **options: Any) -> object:
        self._follow_scheduler()
        named = self._signature.bind(self._network, *inputs, **options).arguments
        _, x, *_ = named.values()
        require(
            named.get(ADAPTER) is None,
            f"feature cache in a pipeline: the network is given {ADAPTER}, of a T2I-Adapter, which "
            "no cache knows; call hasten.cache_(pipe, None).",
        )
        shapes = [part.shape for part in x]  # of one sample after another
        if shapes != self._shapes:
            self._states, self._shapes = {}, shapes
        t = _times(next(named[name] for name in TIMES if name in named), len(shapes), x[0].device)
        run = functools.partial(self._forward, *inputs, **options)
        number, self._call = self._call, self._call + 1
        state, part = self._states.get(number, Kept(forecast=self._part.forecast)), self._part
        if state.history and isinstance(part, Scheduled) and not self._full(part):
            return self._span(run, len(t), state.at(t))
        decides = state.history and not isinstance(part, Scheduled)
        answer, features = self._span(run, len(t), state.features if decides else ())
        self._states[number] = state.after(t, features)
        return answer

    def _full(self, part: Scheduled) -> bool:
        """Whether the schedule says that this step is full."""
        mask = part.mask
        begin = getattr(self._scheduler, "begin_index", None) or 0
        index = begin + self._steps
        if mask is None:
            return index % part.every == 0
        count = len(self._scheduler.timesteps)
        require(
            len(mask) == count,
            f"lever option mask has {len(mask)} entries, and the pipeline takes {count} steps; "
            "give one for each.",
        )
        return bool(mask[index])


def _times(value: torch.Tensor | float, n: int, device: torch.device) -> torch.Tensor:
    """The times (n,) of a call; where each token has its own, their mean."""
    t = torch.as_tensor(value, device=device).to(torch.float32)
    t = t.flatten(1).mean(1) if t.ndim > 1 else t
    return t.expand(n) if t.numel() == 1 else t
