"""``hasten sample``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from hasten.cli.options import (
    Device,
    Flag,
    Json,
    ModelName,
    Parameter,
    PlanText,
    Prompts,
    model_of,
    plan_of,
)

if TYPE_CHECKING:
    import torch


def sample(
    model: ModelName = "builtin:mnist",
    *,
    plan: PlanText = None,
    n: int = 16,
    seed: int = 0,
    condition: Annotated[str | None, Parameter(name="--condition")] = None,
    prompts: Prompts = None,
    out: Path = Path("pictures"),
    zoom: int = 4,
    gif: Flag = False,
    device: Device = "cpu",
    json_: Json = False,
) -> None:
    """Make pictures: single files, a grid of them, and a GIF of the denoising on request.

    Args:
        n: how many pictures.
        seed: picture i depends on (seed, i) alone.
        condition: a label, or several to take in turn, as in 0,1,2; without it, each class once.
        out: the folder to write.
        zoom: how many times larger the grid and the GIF show each pixel, 1 to 16.
        gif: also write denoising.gif.
    """
    from hasten.core.errors import require_whole
    from hasten.core.labels import labels_in_turn
    from hasten.media.pictures import grid, save_pictures
    from hasten.sampling import build

    require_whole("n", n, 1, 100_000)
    require_whole("zoom", zoom, 1, 16)
    chosen = plan_of(plan)
    loaded = model_of(model, prompts, device)
    sampler = build(loaded, chosen)
    labels = labels_in_turn(condition, n, loaded.labels, loaded.prompts)
    frames: list[torch.Tensor] = []

    def watch(_: int, x0: torch.Tensor) -> None:
        if gif and len(x0) == n:
            frames.append(grid(loaded.codec.decode(x0).cpu()))

    pictures = sampler.sample(n, seed=seed, condition=labels, watch=watch, batch=n if gif else 64)
    facts = {"model": loaded.name, "sha256": loaded.sha256, "seed": seed, "plan": sampler.plan}
    written = save_pictures(pictures, out, facts, frames=frames if gif else None, zoom=zoom)
    result = {**facts, "plan": sampler.plan.model_dump(), "n": n, "out": str(out)}
    print(json.dumps(result) if json_ else f"wrote {', '.join(written)} to {out}")
