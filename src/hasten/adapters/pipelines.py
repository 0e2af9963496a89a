"""A live pipeline of diffusers as a Model, captured and verified."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch

from hasten.adapters.attach import changed
from hasten.adapters.capture import (
    Captured,
    CapturedNet,
    CapturedPrompts,
    CapturedTurns,
    captured,
    close,
)
from hasten.adapters.families import CapturedFamily, Network, TurnsFamily, family
from hasten.adapters.frozen import frozen
from hasten.adapters.pipeline_codec import PipelineCodec, decoded_by
from hasten.adapters.recording import (
    Step,
    arguments_of,
    boundary_of,
    helper_of,
    networks_of,
    recorded,
    takes,
)
from hasten.adapters.schedules import config_of, read_prediction, read_schedule
from hasten.adapters.untyped import Pipeline, PipelineCall
from hasten.core.errors import UserError, nearest, require
from hasten.core.model import Model

VERIFIED = 3  # steps of the record that a capture is checked against
REFUSED = {  # arguments of a pipeline's call, also by the first word of their names
    "prompt": "give prompts=[...]",
    "negative": "give negative=",
    "num_inference_steps": "a plan says how many steps are taken",
    "num_images_per_prompt": "a Sampler makes as many pictures as it is asked for",
    "num_videos_per_prompt": "a Sampler makes as many clips as it is asked for",
    "callback": "a Sampler calls its own (watch=)",
    "latents": "a Sampler begins with noise=",
    "generator": "a Sampler has seed=",
    "output": "pictures are tensors",
    "return": "pictures are tensors",
    "eta": "a plan's solver says it, as in ddim(eta=1.0)",
    "control_guidance_start": "what changes from step to step is not captured",
    "control_guidance_end": "what changes from step to step is not captured",
    "cfg_truncation": "what changes from step to step is not captured",
}


def load_pipeline(
    pipe: Pipeline,
    prompts: Sequence[str | int] | None,
    call: PipelineCall,
    more: PipelineCall | None = None,
) -> Model:
    """The Model of ``pipe`` for ``prompts``: a label for each, and one for no prompt (or the
    negative one) where the pipeline guides.

    Args:
        call: arguments of the pipeline's own call, such as ``height`` or ``guidance_scale``.
        more: arguments that hasten itself gives it.

    Raises:
        UserError: its loop cannot be captured, with the argument that stands in the way; a
            scheduler that cannot be read.
    """
    kind, networks = type(pipe).__name__, networks_of(pipe)
    require(
        not changed(pipe),
        f"a plan with a dtype, an engine or levers is applied to this {kind}; call "
        "hasten.undo(pipe) before you load it.",
    )
    for given in call:
        why = _refused(given)
        require(why is None, f"load takes no argument {given!r}: {why}.")
        require(
            takes(pipe, given),
            f"{kind} takes no argument {given!r}. {nearest(given, _arguments(pipe))}",
        )
    settings = {**call, **(more or {})}
    for given in more or {}:
        require(takes(pipe, given), f"{kind} takes no {given.replace('_', ' ')}; drop it.")
    if prompts is not None:
        able = takes(pipe, "prompt") or takes(pipe, "class_labels")
        require(able, f"{kind} takes no prompts; drop them.")
        settings["class_labels" if kind.startswith("DiT") else "prompt"] = list(prompts)
    asked = None if prompts is None else len(prompts)
    what = captured(recorded(pipe, settings, 2), _twice(pipe, settings), kind, asked)
    others = None if prompts is None else _prompts(pipe, call, more or {}, what)
    net = _captured(pipe, list(networks.values()), what, others).eval()
    _verify(net, recorded(pipe, _elsewhere(pipe, settings, what), VERIFIED), what, kind)
    config = config_of(pipe.scheduler)
    labels = None if prompts is None else what.samples
    zeros = torch.zeros(1, *what.shape, device=pipe.device)
    picture = tuple(decoded_by(pipe, settings, zeros, what.answer).shape[1:])
    codec = PipelineCodec(source=kind).of(pipe, settings, what.answer, what.shape, picture)
    return Model(
        net=net,
        schedule=read_schedule(config, f"{type(pipe.scheduler).__name__} of the pipeline"),
        prediction=read_prediction(config, f"{type(pipe.scheduler).__name__} of the pipeline"),
        shape=what.shape,
        codec=codec,
        labels=labels,
        null_label=None if what.guidance is None else labels,
        name=kind,
        plans=() if what.guidance is None else ({"guidance": round(what.guidance, 4)},),
        prompts=_texts(prompts),
    )


def _captured(
    pipe: Pipeline,
    networks: Sequence[torch.nn.Module],
    what: Captured,
    others: CapturedPrompts | None,
) -> Network:
    """One network, or two that take turns, as ``net(x, t, condition)``; ``others`` are prompts that
    it was not captured with, which two cannot take."""
    helper = helper_of(pipe)
    beside = None if helper is None else frozen(helper)
    inside = [CapturedNet(frozen(network), what, beside) for network in networks]
    known = family(networks[0])
    if len(inside) == 1:
        inside[0].prompts = others
        return Network(inside[0], CapturedFamily.of(networks[0], known))
    boundary = boundary_of(pipe)
    assert boundary is not None
    return Network(
        CapturedTurns(inside[0], inside[1], boundary), TurnsFamily.of(networks[0], known)
    )


def _prompts(
    pipe: Pipeline, call: PipelineCall, more: PipelineCall, what: Captured
) -> CapturedPrompts | None:
    """Other prompts than those of the capture; None where the call has something for each, or
    several branches of guidance stand for the null label."""
    several = any(isinstance(value, (list, tuple)) for value in call.values())
    if several or len(what.mixed) > 1 or not takes(pipe, "prompt"):
        return None
    negative = [text[0] for name, text in more.items() if name == "negative_prompt"]
    return CapturedPrompts(pipe, call, what, negative[0] if negative else "")


def _texts(prompts: Sequence[str | int] | None) -> tuple[str, ...]:
    """The prompts that are texts; none where they are classes."""
    if prompts is None or not isinstance(prompts[0], str):
        return ()
    return tuple(cast("Sequence[str]", prompts))


def _refused(argument: str) -> str | None:
    """Why an argument of a pipeline's call is not taken; None where it is."""
    return REFUSED.get(argument) or REFUSED.get(argument.partition("_")[0])


def _arguments(pipe: Pipeline) -> list[str]:
    """The arguments of a pipeline's call that are taken."""
    return [name for name in arguments_of(pipe) if _refused(name) is None]


def _twice(pipe: Pipeline, call: PipelineCall) -> Step | None:
    """The first step of the same call for twice as many samples; None where it cannot be made."""
    doubled = {
        name: value * 2 if isinstance(value, list) else value for name, value in call.items()
    }
    if "prompt" not in call and "class_labels" not in call:
        doubled["batch_size"] = 2 * int(call.get("batch_size", 1))
    try:
        return recorded(pipe, doubled, 1)[0]
    except UserError:
        return None


def _elsewhere(pipe: Pipeline, call: PipelineCall, what: Captured) -> dict[str, object]:
    """The same call from another start. Only the start is another: what else a pipeline draws (of
    the posterior of a picture's latents, say) belongs to the condition."""
    if any("image" in name for name in call):  # its latents may be drawn from the same generator
        return {**call}
    if not takes(pipe, "latents"):
        return {**call, "generator": torch.Generator().manual_seed(1)}
    noise = torch.randn(what.samples, *what.shape, generator=torch.Generator().manual_seed(1))
    return {**call, "latents": noise.to(pipe.device, what.dtype)}


@torch.no_grad()
def _verify(net: torch.nn.Module, steps: Sequence[Step], what: Captured, kind: str) -> None:
    """Compare the captured network with what the pipeline itself makes at another start and other
    times."""
    n, seen = what.samples, what.layout.x.dtype
    for step in steps:
        x, labels = step.sample[:n].to(seen), torch.arange(n, device=step.sample.device)
        t = torch.full((n,), step.timestep, device=x.device)
        answer = net(x, t, labels)
        if what.guidance is not None:
            null = net(x, t, torch.full_like(labels, n))
            answer = null + what.guidance * (answer - null)
        wanted = step.output[:n]
        if wanted.shape[1] == 2 * x.shape[1]:
            wanted = wanted.chunk(2, dim=1)[0]
        apart = float((answer - wanted).norm() / wanted.norm().clamp_min(1e-12))
        require(
            apart < close(x.dtype),
            f"{kind} was captured, but at t = {step.timestep:g} its network answers otherwise (off "
            f"by {apart:.2g}); what it is given depends on more than x, t and the prompts.",
        )
