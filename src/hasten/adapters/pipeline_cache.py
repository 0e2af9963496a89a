"""A feature cache inside a stock diffusers pipeline: the pipeline stays as it is, and its network
runs in part where the schedule says so."""

from __future__ import annotations

import functools
import inspect
import weakref
from typing import Any, NoReturn

import torch

from hasten.adapters.recording import networks_of
from hasten.adapters.split import span
from hasten.core.errors import UserError, require
from hasten.core.feature_cache import FeatureCache, Kept, Scheduled
from hasten.core.lever import levers

Pipeline = Any  # of diffusers
ATTRIBUTE = "_hasten_cache"
ADAPTER = "down_intrablock_additional_residuals"
TIMES = ("timestep", "t")  # what networks call their times
COMPILED = "_orig_mod"  # what torch.compile calls the network that it wraps
MOST = 8  # calls within a step that are told apart


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
    networks = networks_of(pipe)
    if cache is None:
        for network in networks.values():
            _undo(getattr(network, COMPILED, network))
        return
    for name, network in networks.items():
        require(
            not hasattr(network, COMPILED),
            f"the {name} of this {type(pipe).__name__} is compiled by torch.compile, which knows "
            "no feature cache; put the network itself there.",
        )
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
    for network in networks.values():
        span(network, part.part_name, **part.where())  # refuses before the old cache is given up
    for network in networks.values():
        _undo(network)
        if isinstance(part, Scheduled) and part.mask is None and part.every == 1:
            continue
        network.__dict__[ATTRIBUTE] = None  # before its forward, so that a pickler meets it first
        network.__dict__[ATTRIBUTE] = _Caching(pipe, network, part)


def _undo(network: torch.nn.Module) -> None:
    before = network.__dict__.pop(ATTRIBUTE, None)
    if before is not None:
        before.undo()


class _Clock:
    """The step that a scheduler's run is at, and the caches that go by it: one a network."""

    def __init__(self) -> None:
        self.steps = 0
        self.caches: weakref.WeakSet[_Caching] = weakref.WeakSet()

    def begin(self) -> None:
        """A new run: nothing is kept."""
        self.steps = 0
        for cache in self.caches:
            cache.begin()

    def stepped(self, scheduler: Any) -> None:
        """The scheduler has taken a step."""
        self.steps += 1
        for cache in self.caches:
            cache.stepped()
        if self.index(scheduler) >= len(scheduler.timesteps):
            self.begin()

    def index(self, scheduler: Any) -> int:
        return (getattr(scheduler, "begin_index", None) or 0) + self.steps


CLOCKS: weakref.WeakKeyDictionary[Any, _Clock] = weakref.WeakKeyDictionary()


def _followed(kind: type) -> type:
    """``kind`` that tells its clock of its timesteps and steps."""

    @functools.wraps(kind.set_timesteps)
    def set_timesteps(self: Any, *inputs: object, **options: object) -> object:
        if (clock := CLOCKS.get(self)) is not None:
            clock.begin()
        return kind.set_timesteps(self, *inputs, **options)

    @functools.wraps(kind.step)
    def step(self: Any, *inputs: object, **options: object) -> object:
        output = kind.step(self, *inputs, **options)
        if (clock := CLOCKS.get(self)) is not None:
            clock.stepped(self)
        return output

    methods = {"set_timesteps": set_timesteps, "step": step, "__module__": kind.__module__}
    return type(kind.__name__, (kind,), methods)


class _Caching:
    """Stands in for ``network.forward``, and begins anew at every ``set_timesteps`` and after the
    last step."""

    def __init__(self, pipe: Pipeline, network: torch.nn.Module, part: FeatureCache) -> None:
        self._pipe, self._network, self._part = pipe, network, part
        self._signature = inspect.signature(type(network).forward)
        self._own, self._forward = network.__dict__.get("forward"), network.forward
        self._active = True
        self._span = span(network, part.part_name, **part.where())
        self._scheduler: Any = None
        self.begin()

        @functools.wraps(self._forward)
        def forward(*inputs: Any, **options: Any) -> object:
            return (self._called if self._active else self._forward)(*inputs, **options)

        self._put = network.forward = forward

    def undo(self) -> None:
        """Leave pipeline and network as they were; what was put around the network's forward since
        stays, around its own."""
        self._active = False
        if self._network.__dict__.get("forward") is self._put:
            del self._network.forward
            if self._own is not None:
                self._network.forward = self._own  # type: ignore[method-assign]
        self._let_go_()

    def __deepcopy__(self, memo: object) -> NoReturn:
        raise UserError(
            f"a feature cache is set on this {type(self._network).__name__}, which is neither "
            "copied nor saved with it; call hasten.cache_(pipe, None) first."
        )

    def __reduce__(self) -> NoReturn:
        self.__deepcopy__({})

    def begin(self) -> None:
        """A new run: nothing is kept."""
        self._call = 0
        self._states: dict[int, Kept] = {}  # by the number of the call within a step
        self._shapes: list[torch.Size] = []

    def _let_go_(self) -> None:
        clock = None if self._scheduler is None else CLOCKS.get(self._scheduler)
        if clock is not None:
            clock.caches.discard(self)
            if not clock.caches:
                del CLOCKS[self._scheduler]
                self._scheduler.__class__ = type(self._scheduler).__mro__[1]

    def _follow_scheduler(self) -> _Clock:
        """Pipelines may be given another scheduler at any time. A copy of one is not followed."""
        scheduler = self._pipe.scheduler
        clock = CLOCKS.get(scheduler)
        if clock is not None and self in clock.caches:
            return clock
        self._let_go_()
        self._scheduler = scheduler
        if clock is None:
            clock = CLOCKS[scheduler] = _Clock()
            scheduler.__class__ = _followed(type(scheduler))
        clock.caches.add(self)
        self.begin()
        return clock

    def stepped(self) -> None:
        """The scheduler has taken a step."""
        self._call = 0

    def _called(self, *inputs: Any, **options: Any) -> object:
        clock = self._follow_scheduler()
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
        if number >= MOST:  # nobody steps
            clock.begin()
        state, part = self._states.get(number, Kept(forecast=self._part.forecast)), self._part
        if state.history and isinstance(part, Scheduled) and not self._full(part, clock):
            return self._span(run, len(t), state.at(t))
        decides = state.history and not isinstance(part, Scheduled)
        answer, features = self._span(run, len(t), state.features if decides else ())
        self._states[number] = state.after(t, features)
        return answer

    def _full(self, part: Scheduled, clock: _Clock) -> bool:
        """Whether the schedule says that this step is full."""
        mask, index = part.mask, clock.index(self._scheduler)
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
