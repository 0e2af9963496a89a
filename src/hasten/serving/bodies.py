"""What requests may say: OpenAI's fields for pictures, and those of diffusion beside them."""

from __future__ import annotations

from typing import Annotated, Literal

import pydantic

MOST_LETTERS = 4000  # of a prompt
MOST_PICTURES = 4
MOST_STEPS = 200
MOST_SIZE = 2048
SIZE = r"^(auto|[1-9][0-9]{0,4}x[1-9][0-9]{0,4})$"
QUALITIES = {
    "low": "fast",
    "standard": "balanced",
    "medium": "balanced",
    "high": "best",
    "hd": "best",
}  # the plan that OpenAI's word for a quality stands for

Prompt = Annotated[str, pydantic.Field(max_length=MOST_LETTERS)]


class Common(pydantic.BaseModel):
    """The fields of every request for pictures.

    Attributes:
        model: one that is served; by default the first.
        n: pictures, 1 to 4.
        size: ``WIDTHxHEIGHT`` that the model makes, or ``auto``.
        quality: OpenAI's words for the plans: low is ``fast``, high is ``best``.
        plan: the name of a plan; it goes before quality.
        seed: picture i depends on (seed, i) alone; by default a random one, which is told.
        guidance_scale, num_inference_steps: in place of the plan's.
        negative_prompt: what the pictures should not show, with guidance.
        user, background, moderation, style: taken, and without effect here.
    """

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, strict=False)

    prompt: Prompt
    model: Annotated[str, pydantic.Field(max_length=200)] | None = None
    n: Annotated[int, pydantic.Field(ge=1, le=MOST_PICTURES)] | None = 1
    size: Annotated[str, pydantic.Field(pattern=SIZE)] | None = "auto"
    quality: Literal["auto", "low", "medium", "high", "standard", "hd"] | None = "auto"
    response_format: Literal["b64_json"] | None = "b64_json"
    output_format: Literal["png", "jpeg", "webp"] | None = "png"
    output_compression: Annotated[int, pydantic.Field(ge=0, le=100)] | None = 100
    stream: bool | None = False
    partial_images: Annotated[int, pydantic.Field(ge=0, le=3)] | None = 0
    plan: Annotated[str, pydantic.Field(max_length=200)] | None = None
    seed: Annotated[int, pydantic.Field(ge=0, le=2**63 - 1)] | None = None
    guidance_scale: Annotated[float, pydantic.Field(ge=0, le=20, allow_inf_nan=False)] | None = None
    num_inference_steps: Annotated[int, pydantic.Field(ge=1, le=MOST_STEPS)] | None = None
    negative_prompt: Prompt | None = None
    user: Annotated[str, pydantic.Field(max_length=200)] | None = None
    background: Literal["auto", "opaque"] | None = "auto"
    moderation: Literal["auto", "low"] | None = "auto"
    style: Literal["vivid", "natural"] | None = None

    @property
    def pictures(self) -> int:
        return self.n or 1

    @property
    def wanted_size(self) -> tuple[int, int] | None:
        """Width and height, None for the model's own."""
        if self.size in (None, "auto"):
            return None
        width, _, height = str(self.size).partition("x")
        return int(width), int(height)


class Generation(Common):
    """``POST /v1/images/generations``."""


class EditForm(Common):
    """The text fields of ``POST /v1/images/edits``; ``image`` and ``mask`` are files beside them.

    Attributes:
        method: how hasten edits, such as ``sdedit(strength=0.5)``.
        source_prompt: what the picture shows now.
    """

    method: Annotated[str, pydantic.Field(max_length=200)] = "flowedit"
    source_prompt: Prompt = ""
    input_fidelity: Literal["high", "low"] | None = None


class VideoForm(pydantic.BaseModel):
    """The text fields of ``POST /v1/videos``; ``input_reference``, a clip to edit, is a file beside
    them."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    prompt: Prompt
    model: Annotated[str, pydantic.Field(max_length=200)] | None = None
    seconds: Annotated[float, pydantic.Field(gt=0, le=60)] | None = None
    size: Annotated[str, pydantic.Field(pattern=SIZE)] | None = "auto"
    plan: Annotated[str, pydantic.Field(max_length=200)] | None = None
    seed: Annotated[int, pydantic.Field(ge=0, le=2**63 - 1)] | None = None
    method: Annotated[str, pydantic.Field(max_length=200)] = "flowedit"
    source_prompt: Prompt = ""
