"""Latents to pictures by a pipeline's own last lines.

The pipeline is run for one step with its network silenced and a scheduler that returns the finished
latents: what follows is its own decoding, whatever it is.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from hasten.adapters.decoders import VaeDecoder, with_decoder
from hasten.adapters.layout import Samples
from hasten.adapters.recording import (
    answering,
    borrowed,
    networks_of,
    run,
    scheduled,
    silenced,
)
from hasten.adapters.scheduler import ProgramScheduler, ProgramSchedulerOutput, Timestep
from hasten.adapters.schedules import config_of, read_schedule
from hasten.adapters.untyped import Pipeline, PipelineCall
from hasten.core.codec import Codec, DecoderNetwork, Shape, codecs
from hasten.core.errors import UserError, require
from hasten.core.plan import Plan

NUMBER = ("prompt", "negative_prompt", "class_labels", "image", "mask_image", "control_image")
"""Arguments of a pipeline's call of which there is one for each sample."""


class Returning(ProgramScheduler):
    """A scheduler of one step, which ends with given latents."""

    latents: torch.Tensor

    def step(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        model_output: torch.Tensor,
        timestep: Timestep,
        sample: torch.Tensor,
        **options: object,
    ) -> ProgramSchedulerOutput | tuple[torch.Tensor, torch.Tensor]:
        """Take the step, and give the latents."""
        done = super().step(model_output, timestep, sample)
        assert isinstance(done, ProgramSchedulerOutput)
        out = self.latents.to(sample.dtype)
        if len(out) < len(sample):  # some pipelines hand over the branches side by side
            out = torch.cat([out] * (len(sample) // len(out)))
        tupled = options.get("return_dict") is False
        return (out, out) if tupled else dataclasses.replace(done, prev_sample=out)


@codecs.add("pipeline")
@dataclasses.dataclass(frozen=True, kw_only=True)
class PipelineCodec(Codec):
    """Decodes as a pipeline does; ``source`` names it."""

    source: str = ""

    def of(
        self,
        pipe: Pipeline,
        call: PipelineCall,
        answer: Samples,
        latent: Shape,
        picture: Shape,
    ) -> PipelineCodec:
        """The same with its pipeline; the name alone can decode nothing."""
        out = dataclasses.replace(self)
        shapes = (latent, picture)
        known = {"_pipe": pipe, "_call": call, "_answer": answer, "_shapes": shapes}
        for name, value in known.items():
            object.__setattr__(out, name, value)
        return out

    @property
    def decoder(self) -> DecoderNetwork | None:
        """Of the pipeline's autoencoder; None where it has none."""
        own = getattr(self, "_decoder", None)
        return own or decoder_of(self._of("_pipe"))

    def decoding(self, decoder: DecoderNetwork) -> PipelineCodec:
        latent, picture = self._of("_shapes")
        pipe, call, answer = (self._of(name) for name in ("_pipe", "_call", "_answer"))
        out = self.of(pipe, call, answer, latent, picture)
        object.__setattr__(out, "_decoder", decoder)
        return out

    def encode(self, pictures: torch.Tensor) -> torch.Tensor:
        raise UserError(f"codec 'pipeline': {self.source} decodes latents; it encodes no pictures.")

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Pictures (n, c, h, w), or clips (n, frames, c, h, w), in [0, 1]."""
        pipe = self._of("_pipe")
        call, answer = self._of("_call"), self._of("_answer")
        other = getattr(self, "_decoder", None)
        with borrowed(pipe), _decoding_by(pipe, other):
            return torch.cat([decoded_by(pipe, call, part, answer) for part in latents.split(8)])

    def encoded_shape(self, shape: Shape) -> Shape:
        latent, picture = self._of("_shapes")
        if tuple(shape) != tuple(picture):
            raise UserError(f"codec 'pipeline': pictures are {picture}, not {tuple(shape)}.")
        return latent

    def decoded_shape(self, shape: Shape) -> Shape:
        return self._of("_shapes")[1]

    def _of(self, name: str) -> Any:
        value = getattr(self, name, None)
        if value is None:
            raise UserError(
                "codec 'pipeline' has no pipeline; load it with its prompts: "
                "hasten.load(pipe, prompts=[...])."
            )
        return value


def decoded_by(
    pipe: Pipeline, call: PipelineCall, latents: torch.Tensor, answer: Samples
) -> torch.Tensor:
    """``latents`` (n, ...) as ``pipe`` decodes them: (n, c, h, w) or (n, frames, c, h, w).

    Args:
        answer: what the network answered once, for its shape.
    """
    like, n = pipe.scheduler, len(latents)
    # A pipeline that begins with a picture skips all but its last steps.
    steps = math.ceil(1 / float(call.get("strength", 1.0) or 1.0))
    plan = Plan(solver="ddim", grid="uniform", steps=steps)
    scheduler = Returning(plan.trace(read_schedule(config_of(like), "scheduler")), like=like)
    scheduler.latents = latents
    settings = {name: _first(value, n) if name in NUMBER else value for name, value in call.items()}
    if "prompt" not in settings and "class_labels" not in settings:
        settings["batch_size"] = n
    settings |= {"num_inference_steps": steps, "output_type": "pt"}
    settings["generator"] = torch.Generator().manual_seed(0)
    with contextlib.ExitStack() as stack:
        stack.enter_context(borrowed(pipe))
        stack.enter_context(scheduled(pipe, scheduler))
        for network in networks_of(pipe).values():
            stack.enter_context(answering(network, silenced(answer)))
        gradients = torch.is_grad_enabled() and latents.requires_grad
        try:
            out = run(pipe, settings, gradients=gradients)
        except UserError:
            require(not gradients, f"{type(pipe).__name__} does not decode with gradients.")
            out = run(pipe, {**settings, "output_type": "np"})
    pictures = out.frames if hasattr(out, "frames") else out.images
    if isinstance(pictures, np.ndarray):
        pictures = torch.from_numpy(pictures).movedim(-1, -3)
    if isinstance(pictures, list):
        pictures = torch.stack(list(pictures))
    return pictures.float().clamp(0, 1).contiguous()


def decoder_of(pipe: Pipeline) -> VaeDecoder | None:
    """The decoder of a pipeline's autoencoder; None where it has none."""
    vae = getattr(pipe, "vae", None)
    return VaeDecoder(vae) if isinstance(vae, torch.nn.Module) and hasattr(vae, "decode") else None


@contextlib.contextmanager
def _decoding_by(pipe: Pipeline, decoder: torch.nn.Module | None) -> Iterator[None]:
    """``pipe`` with another decoder for a while."""
    if decoder is None:
        yield
        return
    vae, pipe.vae = pipe.vae, with_decoder(pipe.vae, decoder)
    try:
        yield
    finally:
        pipe.vae = vae


def _first(value: object, n: int) -> list[object]:
    """The first of several texts or pictures, ``n`` times; one stays alone."""
    return [value[0]] * n if isinstance(value, (list, tuple)) else [value] * n
