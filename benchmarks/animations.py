"""Animations that the documents show: ``python -m benchmarks.animations``.

``docs/images/editing.gif``: a clip, its edit from key frames, and every frame edited by itself,
side by side, as ``hasten edit builtin:shapes`` makes them from ``examples/clip.mp4``.
"""

from __future__ import annotations

from pathlib import Path

import torch

import hasten
from hasten.editing.clip import ClipEditor, as_model_takes
from hasten.editing.stream import Streaming
from hasten.media.pictures import grid, save_gif
from hasten.media.reading import open_clip

ROOT = Path(__file__).parents[1]
CLIP, OUT = ROOT / "examples" / "clip.mp4", ROOT / "docs" / "images" / "editing.gif"
SHOWN, WANTED = "a medium yellow triangle", "a medium blue triangle"
EVERY, FRAMES, ZOOM = 8, 48, 3


def editing(out: Path = OUT, count: int = FRAMES, plan: str | None = None) -> None:
    """The source, its edit from key frames, and frame by frame, as a GIF."""
    model = hasten.load("builtin:shapes")
    editor = ClipEditor.of(model, WANTED, source_prompt=SHOWN, plan=plan)
    with open_clip(CLIP) as reader:
        pixels, times = reader.read_all()
    source = as_model_takes(pixels[:count], model.picture_shape)
    ways = (Streaming(every=EVERY), Streaming(depth=1))
    clips = [source, *(torch.stack(list(editor.stream(way)(source))) for way in ways)]
    sheets = [grid(torch.stack(frames), columns=len(clips)) for frames in zip(*clips, strict=True)]
    spacing = round(1000 * float(times[1] - times[0]))
    save_gif(sheets, out, milliseconds=spacing, zoom=ZOOM)


if __name__ == "__main__":
    editing()
