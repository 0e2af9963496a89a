"""Pictures as files: single PNGs, grids, and a GIF of the denoising."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image, PngImagePlugin

from hasten.core.errors import NonFiniteError
from hasten.core.files import write_bytes


def to_pil(picture: torch.Tensor) -> Image.Image:
    """A picture (c, h, w) in [0, 1], c 1 or 3, as a PIL image; NaN raises, it would turn black."""
    if not bool(torch.isfinite(picture).all()):
        raise NonFiniteError("the picture holds NaN or infinity; nothing was written.")
    pixels = (picture.clamp(0, 1) * 255).round().to(torch.uint8)
    array = pixels[0] if pixels.shape[0] == 1 else pixels[:3].permute(1, 2, 0)
    return Image.fromarray(array.contiguous().numpy())


def grid(pictures: torch.Tensor, columns: int | None = None, gap: int = 2) -> torch.Tensor:
    """Pictures (n, c, h, w) side by side, row by row, as one picture on white."""
    n, channels, height, width = pictures.shape
    columns = columns or math.ceil(math.sqrt(n))
    rows = math.ceil(n / columns)
    size = rows * (height + gap) + gap, columns * (width + gap) + gap
    sheet = torch.ones(channels, *size)
    for index, picture in enumerate(pictures):
        top = index // columns * (height + gap) + gap
        left = index % columns * (width + gap) + gap
        sheet[:, top : top + height, left : left + width] = picture
    return sheet


def png(picture: torch.Tensor, facts: dict[str, Any] | None = None, zoom: int = 1) -> bytes:
    """A picture as PNG bytes, with ``facts`` (plan, seed, model) in its text."""
    image = to_pil(picture)
    if zoom > 1:
        image = image.resize((image.width * zoom, image.height * zoom), Image.Resampling.NEAREST)
    text = PngImagePlugin.PngInfo()
    for key, value in (facts or {}).items():
        text.add_text(f"hasten:{key}", str(value))
    buffer = io.BytesIO()
    image.save(buffer, "PNG", pnginfo=text, optimize=True)
    return buffer.getvalue()


def save_png(
    picture: torch.Tensor, file: Path, facts: dict[str, Any] | None = None, zoom: int = 1
) -> None:
    """Write :func:`png`, whole or not at all."""
    write_bytes(file, png(picture, facts, zoom))


def save_gif(
    frames: Sequence[torch.Tensor], file: Path, *, milliseconds: int = 120, zoom: int = 1
) -> None:
    """Write pictures as a GIF that stays a second on the last."""
    images = [to_pil(frame).convert("RGB") for frame in frames]
    if zoom > 1:
        size = images[0].width * zoom, images[0].height * zoom
        images = [image.resize(size, Image.Resampling.NEAREST) for image in images]
    times = [milliseconds] * (len(images) - 1) + [1000]
    buffer = io.BytesIO()
    images[0].save(buffer, "GIF", save_all=True, append_images=images[1:], duration=times, loop=0)
    write_bytes(file, buffer.getvalue())
