"""A program and a network put onto a live pipeline, and taken off again."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import warnings
from collections.abc import Callable, Mapping
from typing import NoReturn, TypeVar

import torch

from hasten.adapters.decoders import twin, with_decoder
from hasten.adapters.pipeline_cache import cache_
from hasten.adapters.prompt_cache import METHOD, remembering
from hasten.adapters.recording import OWN, networks_of
from hasten.adapters.scheduler import ProgramScheduler
from hasten.adapters.schedules import Scheduler
from hasten.adapters.standing_in import Forward
from hasten.adapters.untyped import Autoencoder, Pipeline
from hasten.core.artifact import weights_stamp
from hasten.core.codec import DecoderNetwork
from hasten.core.errors import UserError, require
from hasten.core.feature_cache import FeatureCache
from hasten.core.prediction import Prediction
from hasten.core.program import Program

ATTRIBUTE = "_hasten_applied"
STEPS, SCALE = "num_inference_steps", "guidance_scale"
Tree = TypeVar("Tree")
FROM_ZERO = "ZImage"  # pipelines of this family count guidance from 0, where others begin at 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Placed:
    """A network that stands in the place of a pipeline's own; ``stamp`` is what it was like, where
    an engine took it so."""

    own: torch.nn.Module
    put: torch.nn.Module
    stamp: tuple[object, ...] | None = None


@dataclasses.dataclass(kw_only=True)
class Applied:
    """What a pipeline was before, and what was put onto it: networks by their attributes."""

    kind: type
    scheduler: Scheduler
    planned: ProgramScheduler
    networks: dict[str, Placed] = dataclasses.field(default_factory=dict)
    cached: bool = False
    vae: Autoencoder | None = None
    put_vae: Autoencoder | None = None

    def check(self) -> None:
        """Refuse to run a network that an engine took as it was, once it has changed."""
        require(
            all(
                one.stamp is None or one.stamp == _stamp(one.put) for one in self.networks.values()
            ),
            f"the network of this {self.kind.__name__} has changed since the plan was applied (a "
            "LoRA, or another device), and its engine runs it as it was; call hasten.undo(pipe), "
            "and apply the plan again.",
        )


def applied(pipe: Pipeline) -> Applied | None:
    """What was applied to ``pipe``; None where nothing was."""
    return pipe.__dict__.get(ATTRIBUTE)


def changed(pipe: Pipeline) -> bool:
    """Whether another network, or a cache, was put onto ``pipe``."""
    note = applied(pipe)
    return note is not None and (note.cached or bool(note.networks) or note.vae is not None)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Carried:
    """What a pipeline is given beside a program.

    Attributes:
        networks, encoders: stand in the place of the pipeline's networks and of its text encoders,
            by their attributes.
        forward: makes the ``forward`` of every network from its own; the network is a copy then, so
            that the pipeline's own object stays as it was.
        fixed: ``forward`` keeps the weights as they are now.
        prediction: what ``networks`` predict; what the pipeline's own does by default.
        cache: a feature cache on a schedule, such as ``deep(every=2)``.
        guidance: the guidance scale where the caller of the pipeline gives none.
        decoder: stands in the place of that of the pipeline's autoencoder.
        prompts_kept: how many calls of its text encoders are remembered.
    """

    networks: Mapping[str, torch.nn.Module] = dataclasses.field(default_factory=dict)
    encoders: Mapping[str, torch.nn.Module] = dataclasses.field(default_factory=dict)
    forward: Callable[[Forward], Forward] | None = None
    fixed: bool = False
    prediction: Prediction | None = None
    cache: str | FeatureCache | None = None
    guidance: float | None = None
    decoder: DecoderNetwork | None = None
    prompts_kept: int = 0

    def replaced(self, pipe: Pipeline) -> dict[str, torch.nn.Module]:
        """The pipeline's own networks and text encoders that others stand in for."""
        names = [*self.encoders]
        if self.networks or self.forward is not None:
            names += networks_of(pipe)
        return {name: getattr(pipe, name) for name in names}

    def instead(self, name: str, own: torch.nn.Module) -> Placed:
        """What stands in the place of ``own``."""
        if name in self.encoders:
            return Placed(own=own, put=self.encoders[name])
        put = self.networks.get(name, own)
        if put is own:
            put = twin(own)
            put.__dict__.pop("forward", None)
        if self.forward is not None:
            put.forward = self.forward(put.forward)
        return Placed(own=own, put=put, stamp=_stamp(put) if self.fixed else None)


def attach_(pipe: Pipeline, program: Program, carried: Carried | None = None) -> None:
    """Let ``pipe`` run ``program`` with what is ``carried``; :func:`detach_` takes all of it back.

    Raises:
        UserError: something is applied already; a network that is moved on and off the device.
    """
    kind, carried = type(pipe).__name__, carried or Carried()
    require(
        applied(pipe) is None,
        f"a plan is applied to this {kind} already; call hasten.undo(pipe) first.",
    )
    replaced = carried.replaced(pipe)
    require(
        not any(hasattr(own, "_hf_hook") for own in replaced.values()),
        f"the network of this {kind} is moved on and off the device (enable_model_cpu_offload), "
        "so no other can be put in its place; apply the plan first, or one without engine, dtype "
        "and levers.",
    )
    kept = carried.prompts_kept
    more = {METHOD: remembering(type(pipe), kept)} if kept else {}
    scheduler = ProgramScheduler(program, carried.prediction, like=pipe.scheduler)
    note = Applied(kind=type(pipe), scheduler=pipe.scheduler, planned=scheduler)
    pipe.scheduler = scheduler
    for name, own in replaced.items():
        note.networks[name] = carried.instead(name, own)
        setattr(pipe, name, note.networks[name].put)
    if carried.decoder is not None:
        note.vae, note.put_vae = pipe.vae, with_decoder(pipe.vae, carried.decoder)
        pipe.vae = note.put_vae
    pipe.__class__ = _calling(type(pipe), program.evaluations, carried.guidance, more)
    pipe.__dict__[ATTRIBUTE] = note
    if carried.cache is not None:
        try:
            cache_(pipe, carried.cache)
        except UserError:
            detach_(pipe)
            raise
        note.cached = True


def detach_(pipe: Pipeline) -> None:
    """Take back what :func:`attach_` did.

    Raises:
        UserError: nothing is applied.
    """
    note = applied(pipe)
    require(note is not None, f"nothing is applied to this {type(pipe).__name__}.")
    assert note is not None
    if note.cached:
        cache_(pipe, None)
    pipe.__class__ = note.kind
    if pipe.scheduler is note.planned:  # one that was set since stays
        pipe.scheduler = note.scheduler
    if note.vae is not None and pipe.vae is note.put_vae:
        pipe.vae = note.vae
    for name, one in note.networks.items():
        if getattr(pipe, name) is one.put:
            device = next(one.put.parameters()).device  # the pipeline may have been moved
            setattr(pipe, name, one.own.to(device))
    del pipe.__dict__[ATTRIBUTE]


def _stamp(network: torch.nn.Module) -> tuple[object, ...]:
    """What differs once ``network`` was changed or moved."""
    return weights_stamp(network), next(network.parameters()).device


def casting(dtype: torch.dtype) -> Callable[[Forward], Forward]:
    """Makes a ``forward`` that takes and gives what the pipeline computes in, around one in
    ``dtype``."""

    def around(forward: Forward) -> Forward:
        @functools.wraps(forward)
        def cast(*inputs: object, **options: object) -> object:
            inner, named = _to((inputs, options), dtype)
            answer = forward(*inner, **named)
            return _to(answer, torch.float32)

        return cast

    return around


def _to(tree: Tree, dtype: torch.dtype) -> Tree:
    """``tree`` with its floating-point tensors in ``dtype``."""

    def moved(value: object) -> object:
        if isinstance(value, torch.Tensor) and value.is_floating_point():
            return value.to(dtype)
        return value

    if dataclasses.is_dataclass(tree) and not isinstance(tree, type):  # an output of diffusers
        return type(tree)(**{name: moved(value) for name, value in vars(tree).items()})
    return torch.utils._pytree.tree_map(moved, tree)  # pyright: ignore[reportAttributeAccessIssue]


def _calling(
    kind: type, evaluations: int, guidance: float | None, more: Mapping[str, object]
) -> type:
    """``kind`` with a call that takes as many steps as the plan has, whatever its default is, and
    with ``more`` methods."""
    call = kind.__call__
    signature = inspect.signature(call)
    default = signature.parameters.get(STEPS)
    takes_scale = SCALE in signature.parameters
    if guidance is not None and kind.__name__.startswith(FROM_ZERO):
        guidance -= 1.0

    @functools.wraps(call)
    def planned(self: Pipeline, *inputs: object, **options: object) -> object:
        note = applied(self)
        if note is not None:
            note.check()
        bound = signature.bind_partial(self, *inputs, **options)
        given = bound.arguments.get(STEPS)
        if given not in (None, evaluations) and (default is None or given != default.default):
            warnings.warn(
                f"{STEPS} is {given}, but the plan that is applied takes {evaluations}; call "
                "hasten.undo(pipe) to choose yourself.",
                stacklevel=2,
            )
        bound.arguments[STEPS] = evaluations
        if guidance is not None and takes_scale:
            bound.arguments.setdefault(SCALE, guidance)
        # By name: what stands before them may not have been given.
        named = dict(bound.arguments)
        extra = named.pop("kwargs", {})
        return call(named.pop("self", self), **named, **extra)

    def refuse(self: Pipeline, *_: object, **__: object) -> NoReturn:
        raise UserError(
            f"a plan is applied to this {kind.__name__}, which is neither copied nor saved with "
            "it; call hasten.undo(pipe) first."
        )

    refused = dict.fromkeys(("__deepcopy__", "__reduce_ex__", "save_pretrained"), refuse)
    setattr(planned, OWN, call)
    methods = {"__call__": planned, "__module__": kind.__module__, **refused, **more}
    return type(kind.__name__, (kind,), methods)
