"""``hasten sample``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from hasten.cli.options import (
    NOTHING,
    Device,
    Flag,
    Json,
    ModelName,
    Parameter,
    PlanText,
    Request,
    model_of,
    plan_of,
)

if TYPE_CHECKING:
    import torch


def sample(
    model: ModelName = "builtin:mnist",
    *,
    plan: PlanText = None,
    n: int | None = None,
    seed: int = 0,
    condition: Annotated[str | None, Parameter(name="--condition")] = None,
    request: Request = NOTHING,
    out: Path = Path("pictures"),
    zoom: int = 4,
    gif: Flag = False,
    fps: int = 16,
    device: Device = "cpu",
    json_: Json = False,
) -> None:
    """Make pictures (single files, a grid of them, and a GIF of the denoising on request), or
    clips (MP4 files, and frames.png, where the model makes them).

    Args:
        n: how many pictures; 16 by default, or one for each prompt.
        seed: picture i depends on (seed, i) alone.
        condition: a label, or several to take in turn, as in 0,1,2; without it, each class once.
        out: the folder to write.
        zoom: how many times larger the grid and the GIF show each pixel, 1 to 16.
        gif: also write denoising.gif.
        fps: frames per second of clips.
    """
    from hasten.core.errors import require, require_whole
    from hasten.core.labels import labels_in_turn
    from hasten.media.pictures import grid, save_pictures
    from hasten.media.video import require_av, save_clips
    from hasten.sampling import build

    if n is not None:
        require_whole("n", n, 1, 100_000)
    require_whole("zoom", zoom, 1, 16)
    require_whole("fps", fps, 1, 240)
    chosen = plan_of(plan)
    loaded = model_of(model, request, device)
    if clips := len(loaded.picture_shape) == 4:
        require(not gif, "gif shows pictures, and this model makes clips; drop it.")
        require_av()
    n = n or len(loaded.prompts) or 16
    sampler = build(loaded, chosen)
    labels = labels_in_turn(condition, n, loaded.labels, loaded.prompts)
    frames: list[torch.Tensor] = []

    def watch(_: int, x0: torch.Tensor) -> None:
        if gif and len(x0) == n:
            frames.append(grid(sampler.resolved.codec.decode(x0).cpu()))

    pictures = sampler.sample(n, seed=seed, condition=labels, watch=watch, batch=n if gif else 64)
    facts = {"model": loaded.name, "sha256": loaded.sha256, "seed": seed, "plan": sampler.plan}
    if clips:
        written = save_clips(pictures, out, facts, fps=fps)
    else:
        written = save_pictures(pictures, out, facts, frames=frames if gif else None, zoom=zoom)
    result = {**facts, "plan": sampler.plan.model_dump(), "n": n, "out": str(out)}
    print(json.dumps(result) if json_ else f"wrote {', '.join(written)} to {out}")
