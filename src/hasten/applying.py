"""apply(pipe, plan) and undo(pipe): the user's own pipeline, same call, faster."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from hasten.adapters.attach import Carried, attach_, casting, detach_
from hasten.adapters.families import family
from hasten.adapters.frozen import frozen
from hasten.adapters.pipeline_codec import decoder_of
from hasten.adapters.pipelines import load_pipeline
from hasten.adapters.prompt_cache import text_encoders
from hasten.adapters.recording import (
    arguments_of,
    networks_of,
    require_pipeline,
    takes,
)
from hasten.adapters.running import run_by
from hasten.adapters.schedules import config_of, read_schedule
from hasten.adapters.standing_in import Forward
from hasten.adapters.untyped import Pipeline, PipelineCall
from hasten.core.codec import DecoderNetwork
from hasten.core.engine import Engine
from hasten.core.errors import UserError, nearest, require
from hasten.core.family import PLAIN, inner
from hasten.core.feature_cache import FeatureCache
from hasten.core.lever import Lever, levers
from hasten.core.model import Model
from hasten.core.plan import Plan, PlanLike, as_plan
from hasten.engines.compile import require_compiler
from hasten.engines.compile_blocks import with_compiled_blocks
from hasten.sampling import resolve


def apply(pipe: Pipeline, plan: PlanLike, **call: object) -> None:
    """Let a diffusers pipeline run ``plan``: its own call, with fewer and cheaper evaluations.

    The plan sets the number of steps: the pipeline's default is ignored, and another number warns.
    Whatever else the call takes (prompts, sizes, callbacks, generators, the strength of image to
    image) stays as it is. A pipeline in half precision stays in that; a float32 one may be given a
    narrower dtype. :func:`undo` gives back the pipeline as it was; its own network is never
    changed, and what a dtype or lever makes of it is a copy.

    Args:
        call: arguments of the pipeline's own call (``height``, ``image``), for levers that have to
            see the network run once.

    Raises:
        UserError: a plan that a pipeline cannot carry, with what to do; a scheduler that cannot be
            read; a plan that is applied already.
    """
    require_pipeline(pipe)
    require(plan is not None, "apply has no plan; give a Plan, its text or a file.")
    plan = as_plan(plan).decided()
    _require_carried(plan)
    for given in call:
        require(
            takes(pipe, given),
            f"{type(pipe).__name__} takes no argument {given!r}. "
            f"{nearest(given, arguments_of(pipe))}",
        )
    where = f"{type(pipe.scheduler).__name__} of the pipeline"
    schedule = read_schedule(config_of(pipe.scheduler), where)
    caches = [lever for lever in plan.parts.levers if isinstance(lever, FeatureCache)]
    decoders = [lever for lever in plan.parts.levers if lever.target == "decoder"]
    texts = [lever for lever in plan.parts.levers if lever.target == "text"]
    once = [lever for lever in plan.parts.levers if lever not in (*caches, *decoders, *texts)]
    put, student = _changed(pipe, plan, once, call) if once else ({}, None)
    put, forwards = _prepared(pipe, plan, put)
    # A student is guided already, and may see noise otherwise than its teacher.
    own_guidance = plan.guidance == 1.0 and student is None
    attach_(
        pipe,
        plan.decided()
        .model_copy(update={"levers": ()})
        .trace(schedule if student is None else student.schedule),
        Carried(
            prediction=None if student is None else student.prediction,
            networks=put,
            fixed=plan.engine not in ("eager", "compile", "compile-blocks"),
            forward=None if not forwards else lambda forward: _folded(forward, forwards),
            cache=caches[0] if caches else None,
            decoder=_decoder(pipe, decoders) if decoders else None,
            guidance=None if own_guidance else plan.guidance,
            encoders=_text_encoders(pipe, texts),
            prompts_kept=max((lever.prompts_kept for lever in texts), default=0),
        ),
    )


def undo(pipe: Pipeline) -> None:
    """Take back :func:`apply`: the same object as before, with the same weights.

    Raises:
        UserError: nothing is applied.
    """
    require_pipeline(pipe)
    detach_(pipe)


def _changed(
    pipe: Pipeline, plan: Plan, once: Sequence[Lever], call: PipelineCall
) -> tuple[dict[str, torch.nn.Module], Model | None]:
    """What the levers ``once`` make of the network of ``pipe``, by its attribute; and the student
    that it is, if it is one."""
    (name, *others) = networks_of(pipe)
    require(
        not others,
        f"lever {once[0].part_name!r} changes one network, and {type(pipe).__name__} has two that "
        f"take turns ({', '.join([name, *others])}); drop it.",
    )
    model = load_pipeline(pipe, [""] if takes(pipe, "prompt") else None, call)
    fields = {"levers": tuple(map(levers.text, once)), "engine": "eager", "guidance": 1.0}
    if plan.dtype == "float32":  # what is narrower already is never widened
        fields["dtype"] = _text(model.dtype)
    resolved = resolve(plan.model_copy(update=fields), model)
    student = None if resolved.model is model else resolved.model
    return {name: inner(resolved.cheaper.net)}, student


def _prepared(
    pipe: Pipeline, plan: Plan, put: dict[str, torch.nn.Module]
) -> tuple[dict[str, torch.nn.Module], list[Callable[[Forward], Forward]]]:
    """The networks of ``pipe``, or those ``put`` in their places, in the dtype of ``plan``; and
    what goes around their ``forward``, the innermost first."""
    networks, forwards = {**networks_of(pipe), **put}, []
    dtype = getattr(torch, plan.dtype)
    if dtype != torch.float32 and any(_dtype(net) != dtype for net in networks.values()):
        put = {name: frozen(net, dtype=dtype) for name, net in networks.items()}
        forwards.append(casting(dtype))
    if plan.engine == "compile-blocks":
        whole = {**networks, **put}
        require_compiler(plan.engine, pipe.device)
        put = {name: with_compiled_blocks(net, family(net) or PLAIN) for name, net in whole.items()}
    elif plan.engine == "compile":
        forwards.insert(0, lambda forward: torch.compile(forward, dynamic=False))
    elif plan.engine != "eager":
        first = next(iter({**networks, **put}.values()))
        forwards.insert(0, _run_by(plan.parts.engine, _dtype(first)))
    return put, forwards


def _decoder(pipe: Pipeline, chosen: Sequence[Lever]) -> DecoderNetwork:
    """What levers make of the decoder of ``pipe``."""
    decoder: DecoderNetwork | None = decoder_of(pipe)
    if decoder is None:
        raise UserError(
            f"{type(pipe).__name__} has no decoder of latents; drop {chosen[0].part_name!r}."
        )
    for lever in chosen:
        decoder = lever.decoder(decoder)
    return decoder


def _text_encoders(pipe: Pipeline, chosen: Sequence[Lever]) -> dict[str, torch.nn.Module]:
    """Those of the text encoders of ``pipe`` that levers change, by their attributes."""
    out: dict[str, torch.nn.Module] = {}
    for name, own in text_encoders(pipe).items() if chosen else ():
        encoder = own
        for lever in chosen:
            encoder = lever.text_encoder(encoder)
        if encoder is not own:
            out[name] = encoder
    return out


def _text(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _dtype(network: torch.nn.Module) -> torch.dtype:
    return next(network.parameters()).dtype


def _run_by(engine: Engine, dtype: torch.dtype) -> Callable[[Forward], Forward]:
    """What lets ``engine`` run a network in ``dtype``."""
    name = _text(dtype)
    require(
        dtype == torch.float32 or not engine.own_threads,  # outside torch times are rounded as well
        f"engine {engine.part_name!r} runs a pipeline in float32 alone, and this one would be in "
        f"{name}; set dtype=float32 and load the pipeline in it, or set engine=compile.",
    )
    lacking = engine.lacking()
    require(not lacking, f"engine {engine.part_name!r} needs: {lacking}")
    return run_by(engine, name)


def _folded(forward: Forward, forwards: list[Callable[[Forward], Forward]]) -> Forward:
    for make in forwards:
        forward = make(forward)
    return forward


def _require_carried(plan: Plan) -> None:
    """Refuse what only a Sampler can do."""
    require(
        plan.executor == "sequential" and plan.start == "noise",
        f"a pipeline takes one step after another from noise, and the plan has executor "
        f"{plan.executor!r} and start {plan.start!r}; sample it with "
        "hasten.build(hasten.load(pipe, prompts=[...]), plan).",
    )
    require(
        plan.guidance_interval is None,
        "guidance_interval is not what a pipeline's own loop does; drop it.",
    )
    caches = 0
    for lever in plan.parts.levers:
        cache = isinstance(lever, FeatureCache)
        caches += cache
        require(
            not lever.engines or plan.engine in lever.engines,
            f"lever {lever.part_name!r} is run by {' or '.join(lever.engines)}, and the plan has "
            f"engine {plan.engine!r}; set engine={lever.engines[0] if lever.engines else ''}, or "
            f"drop {lever.part_name}.",
        )
        if not (lever.once or cache):
            raise UserError(
                f"lever {lever.part_name!r} needs hasten's own loop; sample the plan with "
                f"hasten.build(hasten.load(pipe, prompts=[...]), plan), or drop {lever.part_name}."
            )
    require(caches <= 1, "a pipeline takes one feature cache; drop the others.")
    require(
        not caches or (plan.engine == "eager" and plan.dtype == "float32"),
        f"a feature cache in a pipeline runs eagerly in the pipeline's own precision, and the plan "
        f"has engine {plan.engine!r} and dtype {plan.dtype!r}; drop these, or the cache.",
    )
