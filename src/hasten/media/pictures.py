"""Pictures as PIL images and as files: single PNGs, grids of them, and GIFs."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, PngImagePlugin

from hasten.core.errors import NonFiniteError, UserError, require, require_whole
from hasten.core.files import write_bytes

Facts = Mapping[str, object]
FORMATS = ("PNG", "JPEG", "WEBP")
REASON = re.compile(r": | <")  # ends what an error says before it names a file
LARGEST = 64 * 10**6  # pixels of a picture that is opened


def to_pil(picture: torch.Tensor) -> Image.Image:
    """A picture (c, h, w) in [0, 1], with 1 or 3 channels, as a PIL image.

    Raises:
        NonFiniteError: it holds NaN or infinity, which would turn black.
        UserError: it is no tensor of that shape.
    """
    if not isinstance(picture, torch.Tensor):
        raise UserError(f"picture is a {type(picture).__name__}; it takes a tensor (c, h, w).")
    shape = tuple(picture.shape)
    require(
        picture.ndim == 3 and shape[0] in (1, 3),
        f"picture has the shape {shape}; it takes (c, h, w) with 1 or 3 channels"
        + (", so give one picture at a time." if picture.ndim == 4 else "."),
    )
    if not bool(torch.isfinite(picture).all()):
        raise NonFiniteError("the picture holds NaN or infinity; nothing was written.")
    pixels = (picture.detach().cpu().clamp(0, 1) * 255).round().to(torch.uint8)
    array = pixels[0] if pixels.shape[0] == 1 else pixels.permute(1, 2, 0)
    return Image.fromarray(array.contiguous().numpy())


def open_picture(file: Path | io.BytesIO, what: str, largest: int | None = None) -> Image.Image:
    """A picture file (PNG, JPEG or WebP), or its bytes, in RGB; ``what`` names it in an error.

    Raises:
        UserError: it cannot be read, or has more than ``largest`` pixels, by default 64 million.
    """
    largest = largest or LARGEST
    name = "" if isinstance(file, io.BytesIO) else f"{file} "
    require(isinstance(file, io.BytesIO) or file.is_file(), f"{what}: there is no file {file}.")
    try:
        with Image.open(file, formats=FORMATS) as image:
            width, height = image.size
            small = width * height <= largest
            picture = _eight_bits(image).convert("RGB") if small else None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(
            f"{what}: {name}cannot be read ({REASON.split(str(error))[0]}); give a PNG, JPEG or "
            "WebP file."
        ) from None
    if picture is None:
        raise UserError(
            f"{what}: {name}has {width}x{height} pixels; it takes up to {largest:,} in all."
        )
    return picture


def _eight_bits(image: Image.Image) -> Image.Image:
    """``image``, whose pixels may be grey values of 16 bits, with 8 bits a channel."""
    if not image.mode.startswith("I"):
        return image
    return Image.fromarray((np.asarray(image).clip(0, 65535) >> 8).astype(np.uint8))


def grid(pictures: torch.Tensor, columns: int | None = None, gap: int = 2) -> torch.Tensor:
    """Pictures (n, c, h, w) side by side, row by row, as one picture (c, h', w') on white.

    Args:
        columns: pictures per row; by default as many as there are rows.
        gap: white pixels between pictures and around them.
    """
    require(
        isinstance(pictures, torch.Tensor) and pictures.ndim == 4 and len(pictures) > 0,
        "grid takes pictures as one tensor (n, c, h, w).",
    )
    n, channels, height, width = pictures.shape
    columns = math.ceil(math.sqrt(n)) if columns is None else columns
    require_whole("columns", columns, 1, 1 << 20)
    rows = math.ceil(n / columns)
    size = rows * (height + gap) + gap, columns * (width + gap) + gap
    sheet = torch.ones(channels, *size)
    for index, picture in enumerate(pictures):
        top = index // columns * (height + gap) + gap
        left = index % columns * (width + gap) + gap
        sheet[:, top : top + height, left : left + width] = picture
    return sheet


def png(picture: torch.Tensor, facts: Facts | None = None, zoom: int = 1) -> bytes:
    """A picture (c, h, w) in [0, 1] as the bytes of a PNG.

    Args:
        facts: written into the PNG's text (plan, seed, model).
        zoom: how many times larger each pixel is shown.
    """
    image = _zoomed(to_pil(picture), zoom)
    text = PngImagePlugin.PngInfo()
    for key, value in (facts or {}).items():
        text.add_text(f"hasten:{key}", str(value))
    buffer = io.BytesIO()
    image.save(buffer, "PNG", pnginfo=text, optimize=True)
    return buffer.getvalue()


def encoded(picture: torch.Tensor, kind: str, quality: int = 90) -> bytes:
    """A picture (c, h, w) in [0, 1] as the bytes of a ``png``, ``jpeg`` or ``webp``.

    Args:
        quality: of a JPEG or WebP, 0 to 100.
    """
    buffer = io.BytesIO()
    options = {} if kind == "png" else {"quality": quality}
    to_pil(picture).save(buffer, kind.upper(), **options)
    return buffer.getvalue()


def save_png(
    picture: torch.Tensor, file: str | Path, facts: Facts | None = None, zoom: int = 1
) -> None:
    """Write :func:`png` to ``file``, whole or not at all.

    Raises:
        UserError: the file cannot be written.
    """
    write_bytes(file, png(picture, facts, zoom))


def save_gif(
    frames: Sequence[torch.Tensor], file: str | Path, *, milliseconds: int = 120, zoom: int = 1
) -> None:
    """Write pictures (c, h, w) as a GIF that shows the last one for a second.

    Raises:
        UserError: there is no picture, or the file cannot be written.
    """
    require(len(frames) > 0, "frames is empty; a GIF takes at least one picture.")
    images = [_zoomed(to_pil(frame).convert("RGB"), zoom) for frame in frames]
    times = [milliseconds] * (len(images) - 1) + [1000]
    buffer = io.BytesIO()
    images[0].save(buffer, "GIF", save_all=True, append_images=images[1:], duration=times, loop=0)
    write_bytes(file, buffer.getvalue())


def count(n: int, what: str) -> str:
    """``n`` of ``what``, in words."""
    return f"{n} {what}" if n == 1 else f"{n} {what}s"


def _zoomed(image: Image.Image, zoom: int) -> Image.Image:
    require_whole("zoom", zoom, 1, 64)
    if zoom == 1:
        return image
    size = image.width * zoom, image.height * zoom
    return image.resize(size, Image.Resampling.NEAREST)
