"""Keyword arguments that a function does not have, and what to use instead."""

from __future__ import annotations

from collections.abc import Mapping

from hasten.core.errors import UserError, nearest

SAMPLE = ("n", "seed", "first", "condition", "noise", "raw", "batch", "watch")
INSTEAD = {  # what other libraries call it -> what to use here
    "callback": "watch=function(call, x0)",
    "callback_on_step_end": "watch=function(call, x0)",
    "generator": "seed=number",
    "latents": "noise=tensor",
    "labels": "condition=labels",
    "prompt": "condition=label, and hasten.load(..., prompts=[...])",
    "num_images_per_prompt": "n=number",
    "batch_size": "n=number, or batch=number for the pictures per network call",
    "num_inference_steps": "hasten.build(model, 'steps=number')",
    "guidance_scale": "hasten.build(model, 'guidance=number')",
    "eta": "hasten.build(model, 'solver=ddim(eta=1.0)')",
    "output_type": "sampler.pil(n), or raw=True for latents",
}


def refuse_unknown(function: str, unknown: Mapping[str, object]) -> None:
    """Raise for the first ``unknown`` argument of ``sample``, naming what to use.

    Raises:
        UserError: there is one.
    """
    for name in unknown:
        instead = INSTEAD.get(name) or INSTEAD.get(name.rpartition("_")[2])  # any kind of labels
        mend = f"Use {instead}." if instead else nearest(name, SAMPLE)
        raise UserError(f"{function} has no argument {name!r}. {mend}")
