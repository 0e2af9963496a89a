"""Arguments of a pipeline's call as they are written on a command line."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

from hasten.core.errors import require
from hasten.media.pictures import open_picture, to_pil
from hasten.media.reading import open_clip


def argument(text: str) -> tuple[str, Any]:
    """The name and the value of ``name=value``. The value is a number, True, False, None, a list of
    these, or a text; where the name speaks of an image or a mask, a picture file, which is opened;
    where it speaks of a video, a clip file, as a list of pictures.

    Raises:
        UserError: it is not of that form, or the file cannot be opened.
    """
    name, equals, value = text.partition("=")
    name, value = name.strip().replace("-", "_"), value.strip()
    require(
        bool(equals) and name.isidentifier() and bool(value),
        f"call is {text!r}; it takes name=value, as in guidance_scale=4.",
    )
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        pass
    if "image" in name or "mask" in name:
        return name, open_picture(Path(value), f"call: {name}")
    if "video" in name:
        with open_clip(value) as reader:
            frames, _ = reader.read_all()
        return name, [to_pil(frame.float() / 255) for frame in frames[:, :3]]
    return name, value
