"""What a pipeline of diffusers does with its network and scheduler, recorded from its own call."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import threading
import weakref
from collections.abc import Callable, Iterator, Sized
from typing import Any

import torch
from torch.utils import _pytree as pytree

from hasten.adapters.quiet import quiet, quiet_import
from hasten.adapters.scheduler import ProgramScheduler, ProgramSchedulerOutput, Timestep
from hasten.adapters.schedules import config_of, read_schedule
from hasten.adapters.standing_in import Forward
from hasten.adapters.untyped import Answer, Pipeline, PipelineCall
from hasten.core.errors import UserError, require
from hasten.core.plan import Plan

with quiet_import():
    from diffusers import DiffusionPipeline

NETWORKS = ("transformer", "unet", "prior")
SECOND = "transformer_2"  # takes turns with the first, where a pipeline has both
OWN = "hasten_own"  # of the call of a pipeline with a plan: the pipeline's own


class Finished(Exception):
    """Raised by a recording scheduler after its last step: nothing has to be decoded."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class NetworkCall:
    """A call of the network: its arguments by name, its answer as it gave it, and the calls of
    modules before it (a ControlNet) whose answers it may have been given."""

    arguments: dict[str, Any]
    answer: Answer
    helpers: tuple[NetworkCall, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Step:
    """A step of the scheduler: the network calls before it, and what it was given."""

    calls: tuple[NetworkCall, ...]
    output: torch.Tensor
    timestep: float
    sample: torch.Tensor


class Recorder(ProgramScheduler):
    """A program's scheduler that notes what each step is given."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.calls: list[NetworkCall] = []
        self.helpers: list[NetworkCall] = []
        self.steps: list[Step] = []
        self.wanted = self.program.evaluations
        self.returned: torch.Tensor | None = None
        self.altered = False

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Begin there; where that is after the last step, there is none to note."""
        if begin_index >= self.program.evaluations:
            raise Finished
        super().set_begin_index(begin_index)

    def step(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, model_output: torch.Tensor, timestep: Timestep, sample: torch.Tensor, **options: Any
    ) -> ProgramSchedulerOutput | tuple[torch.Tensor, torch.Tensor]:
        """Note the step, then take it."""
        before, self.returned = self.returned, None
        if before is not None:
            same = before.shape == sample.shape
            self.altered |= not (same and torch.allclose(before, sample.float(), 0.02, 1e-4))
        noted = Step(
            calls=tuple(self.calls),
            output=model_output.detach().clone(),
            timestep=float(timestep),
            sample=sample.detach().clone(),
        )
        self.steps.append(noted)
        self.calls.clear()
        self.helpers.clear()
        if len(self.steps) == self.wanted:
            raise Finished
        out = super().step(model_output, timestep, sample, **options)
        self.returned = (out[0] if isinstance(out, tuple) else out.prev_sample).float().clone()
        return out


def require_pipeline(pipe: object) -> None:
    """Refuse what is no live pipeline of diffusers."""
    require(
        isinstance(pipe, DiffusionPipeline) and getattr(pipe, "scheduler", None) is not None,
        f"{type(pipe).__name__} is no live diffusers pipeline with a scheduler; give one.",
    )


def networks_of(pipe: Pipeline) -> dict[str, torch.nn.Module]:
    """The networks that ``pipe`` samples with, by the attributes that hold them: one, or two that
    take turns (Wan 2.2), that of the higher noise levels first.

    Raises:
        UserError: it has none.
    """
    names = [*(name for name in NETWORKS if _holds(pipe, name))][:1]
    if _holds(pipe, SECOND) and (not names or boundary_of(pipe) is not None):
        names.append(SECOND)
    require(
        bool(names),
        f"{type(pipe).__name__} has no unet and no transformer, so hasten cannot capture it.",
    )
    return {name: getattr(pipe, name) for name in names}


def network_of(pipe: Pipeline) -> tuple[str, torch.nn.Module]:
    """The attribute of ``pipe`` that holds the network it samples with, and the network; the first
    of two.

    Raises:
        UserError: it has none.
    """
    return next(iter(networks_of(pipe).items()))


def boundary_of(pipe: Pipeline) -> float | None:
    """The time below which the second of two networks answers; None where one answers always."""
    ratio = pipe.config.get("boundary_ratio")
    return None if ratio is None else ratio * pipe.scheduler.config.num_train_timesteps


def _holds(pipe: Pipeline, name: str) -> bool:
    return isinstance(getattr(pipe, name, None), torch.nn.Module)


def recorded(
    pipe: Pipeline, call: PipelineCall, steps: int, answer: Answer | None = None
) -> list[Step]:
    """The first ``steps`` steps of ``pipe(**call)``; the pipeline is as it was afterwards.

    Args:
        answer: its networks are not asked, and answer zeros of this shape.

    Raises:
        UserError: its scheduler cannot be read, or its own call refuses.
    """
    like, taken = pipe.scheduler, 0
    schedule = read_schedule(config_of(like), f"{type(like).__name__} of the pipeline")
    for count in (steps, 3 * steps, 12 * steps):  # a pipeline that begins with a picture skips some
        plan = Plan(solver="ddim", grid="uniform", steps=count)
        recorder = Recorder(plan.trace(schedule), like=like)
        recorder.wanted = steps
        settings = {"num_inference_steps": count, "output_type": "latent", **call}
        settings.setdefault("generator", torch.Generator().manual_seed(0))
        with contextlib.ExitStack() as stack:
            stack.enter_context(borrowed(pipe))
            stack.enter_context(scheduled(pipe, recorder))
            for network in networks_of(pipe).values() if answer is not None else ():
                stack.enter_context(answering(network, silenced(answer)))
            stack.enter_context(_listening(pipe, recorder))
            run(pipe, settings)
        require(
            not recorder.altered,
            f"{type(pipe).__name__} changes the latents between its steps (a callback, or a mask "
            "that is blended in), which a Model does not do; use hasten.apply instead.",
        )
        taken = len(recorder.steps)
        if taken == steps:
            return recorder.steps
    raise UserError(
        f"{type(pipe).__name__} took {taken} of {steps} steps; its loop is none of network and "
        "scheduler.step, so hasten cannot capture it."
    )


def arguments_of(pipe: Pipeline) -> list[str]:
    """The names of the arguments of the call of ``pipe``."""
    return [name for name in inspect.signature(type(pipe).__call__).parameters if name != "self"]


def takes(pipe: Pipeline, name: str) -> bool:
    """Whether the call of ``pipe`` has an argument ``name``."""
    return name in arguments_of(pipe)


def run(pipe: Pipeline, settings: PipelineCall, *, gradients: bool = False) -> Answer:
    """``pipe(**settings)``, with the settings that it takes; None where a step ended it.

    Args:
        gradients: whether they flow through it, from tensors that ask for them; its own weights do
            not take any.

    Raises:
        UserError: the pipeline refuses its arguments.
    """
    given = {
        # A copy: some pipelines write into the list of prompts that they are given.
        name: list(value) if isinstance(value, list) else value
        for name, value in settings.items()
        if takes(pipe, name)
    }
    try:
        call = getattr(type(pipe).__call__, OWN, type(pipe).__call__)
        with _silent(pipe), _frozen(pipe) if gradients else torch.no_grad():
            return (inspect.unwrap(call) if gradients else call)(pipe, **given)
    except Finished:
        return None
    except UserError:
        raise
    except Exception as error:  # whatever a pipeline raises for arguments that it does not take
        text = " ".join(str(error).split())[:200]
        raise UserError(
            f"{type(pipe).__name__} cannot be called with {', '.join(sorted(given))} "
            f"({type(error).__name__}: {text}); give load the arguments of its own call."
        ) from error


@contextlib.contextmanager
def borrowed(pipe: Pipeline) -> Iterator[None]:
    """``pipe`` for one thread alone, while its parts are others."""
    with _GUARD:
        lock = _LOCKS.setdefault(pipe, threading.RLock())
    with lock:
        yield


_GUARD = threading.Lock()
_LOCKS: weakref.WeakKeyDictionary[Pipeline, contextlib.AbstractContextManager[object]] = (
    weakref.WeakKeyDictionary()
)


@contextlib.contextmanager
def scheduled(pipe: Pipeline, scheduler: ProgramScheduler) -> Iterator[None]:
    """``pipe`` with another scheduler."""
    before = pipe.scheduler
    pipe.scheduler = scheduler
    try:
        yield
    finally:
        pipe.scheduler = before


@contextlib.contextmanager
def answering(network: torch.nn.Module, forward: Forward) -> Iterator[None]:
    """``network`` with another ``forward``."""
    own = network.__dict__.get("forward")
    network.forward = forward
    try:
        yield
    finally:
        if own is None:
            del network.forward
        else:
            network.forward = own


@contextlib.contextmanager
def _listening(pipe: Pipeline, recorder: Recorder) -> Iterator[None]:
    """Note the calls of the networks of ``pipe`` and of its ControlNet."""

    def note(call: NetworkCall) -> None:
        recorder.calls.append(dataclasses.replace(call, helpers=tuple(recorder.helpers)))

    with contextlib.ExitStack() as stack:
        for network in networks_of(pipe).values():
            stack.enter_context(_noting(network, note))
        helper = helper_of(pipe)
        if helper is not None:
            stack.enter_context(_noting(helper, recorder.helpers.append))
        yield


def helper_of(pipe: Pipeline) -> torch.nn.Module | None:
    """The module whose answers the network of ``pipe`` is given."""
    helper = getattr(pipe, "controlnet", None)
    return helper if isinstance(helper, torch.nn.Module) else None


@contextlib.contextmanager
def _noting(module: torch.nn.Module, note: Callable[[NetworkCall], None]) -> Iterator[None]:
    forward = module.forward
    signature = inspect.signature(type(module).forward)

    def noted(*args: object, **kwargs: object) -> object:
        bound = signature.bind(module, *args, **kwargs).arguments
        arguments = {name: value for name, value in bound.items() if name != "self"}
        arguments |= arguments.pop("kwargs", {})
        answer = forward(*args, **kwargs)
        copied = pytree.tree_map_only(torch.Tensor, torch.clone, arguments)
        note(NetworkCall(arguments=copied, answer=answer))
        return answer

    with answering(module, noted):
        yield


@contextlib.contextmanager
def _frozen(pipe: Pipeline) -> Iterator[None]:
    """While gradients flow through ``pipe``, none of its own weights asks for one."""
    modules = [part for part in pipe.components.values() if isinstance(part, torch.nn.Module)]
    asking = [value for part in modules for value in part.parameters() if value.requires_grad]
    for value in asking:
        value.requires_grad_(False)
    try:
        yield
    finally:
        for value in asking:
            value.requires_grad_(True)


@contextlib.contextmanager
def _silent(pipe: Pipeline) -> Iterator[None]:
    """Without progress bars and remarks."""
    before = dict(getattr(pipe, "_progress_bar_config", {}))
    pipe.set_progress_bar_config(disable=True)
    try:
        with quiet():
            yield
    finally:
        pipe.set_progress_bar_config(**before) if before else pipe.__dict__.pop(
            "_progress_bar_config", None
        )


class Nothing(tuple):
    """An answer of a network: a tuple, or what has a ``sample``."""

    @property
    def sample(self) -> Answer:
        return self[0]


def silenced(answer: Answer) -> Callable[..., Nothing]:
    """A network that answers with zeros, shaped as it answered once."""

    def zeros(*args: Sized, **kwargs: Sized) -> Nothing:
        names = (name for name in ("hidden_states", "sample", "x") if name in kwargs)
        rows = len(args[0] if args else kwargs[next(names)])  # of a batch, or of a list
        if isinstance(answer, (list, tuple)):
            return Nothing(([torch.zeros_like(answer[0])] * rows,))
        return Nothing((answer.new_zeros(rows, *answer.shape[1:]),))

    return zeros
