"""One picture of a job, encoded, and what is known of it."""

from __future__ import annotations

import dataclasses
import hashlib

import torch

from hasten.core.errors import NonFiniteError
from hasten.core.files import JsonObject
from hasten.media.pictures import encoded

SUFFIX = {"png": "png", "jpeg": "jpg", "webp": "webp", "latents": "safetensors"}
QUALITY = 95  # of JPEG and WebP


@dataclasses.dataclass(frozen=True, kw_only=True)
class Item:
    """A picture of a job.

    Attributes:
        number: its number in the job, and of the picture of ``seed``.
        prompt, label: what it was asked for; None where the model has none.
        plan: the key of the plan.
        content: the bytes of the encoded picture, or of float32 latents of ``shape``.
    """

    number: int
    seed: int
    prompt: str | None
    label: int | None
    plan: str
    content: bytes
    shape: tuple[int, ...] = ()

    @property
    def name(self) -> str:
        """Nine digits, which files are called by."""
        return f"{self.number:09d}"

    @property
    def facts(self) -> JsonObject:
        """Its line in the manifest."""
        return {
            "number": self.number,
            "seed": self.seed,
            "prompt": self.prompt,
            "label": self.label,
            "plan": self.plan,
            "sha256": hashlib.sha256(self.content).hexdigest(),
            "bytes": len(self.content),
        }


def content_of(picture: torch.Tensor, image: str, format: str) -> bytes:
    """A picture (c, h, w) in [0, 1], or latents, as bytes: a safetensors file of ``x0``, or in
    parquet the numbers alone.

    Raises:
        NonFiniteError: it holds NaN or infinity.
    """
    if image != "latents":
        return encoded(picture, image, QUALITY)
    if not bool(torch.isfinite(picture).all()):
        raise NonFiniteError("the latents hold NaN or infinity.")
    picture = picture.float().contiguous()
    if format == "parquet":
        return picture.numpy().astype("<f4").tobytes()
    from safetensors.torch import save

    return save({"x0": picture})
