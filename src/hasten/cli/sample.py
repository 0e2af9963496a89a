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
    batch: int | None = None,
    device: Device = "cpu",
    json_: Json = False,
) -> None:
    """Make pictures (single files, a grid of them, and a GIF of the denoising on request), or
    clips (MP4 files, and frames.png, where the model makes them).

    Args:
        n: how many pictures; 16 by default, or one for each prompt.
        seed: picture i depends on (seed, i) alone.
        condition: a label, or several to take in turn, as in 0,1,2; without it, all in turn.
        out: the folder to write.
        zoom: how many times larger the grid and the GIF show each pixel, 1 to 16.
        gif: also write denoising.gif.
        fps: frames per second of clips.
        batch: how many are made at a time; 64 by default, 4 with prompts, 1 for clips.
    """
    from tqdm import tqdm

    from hasten.core.errors import require, require_whole
    from hasten.core.labels import labels_in_turn
    from hasten.media.pictures import grid
    from hasten.media.samples import SHOWN, SampleFolder
    from hasten.media.video import require_av
    from hasten.sampling import build

    for name, value, most in (("n", n, 10_000_000), ("zoom", zoom, 16), ("fps", fps, 240)):
        if value is not None:
            require_whole(name, value, 1, most)
    require_whole("batch", batch or 1, 1, 1 << 20)
    chosen = plan_of(plan)
    loaded = model_of(model, request, device)
    n = n or len(loaded.prompts) or 16
    if clips := len(loaded.picture_shape) == 4:
        require(not gif, "gif shows pictures, and this model makes clips; drop it.")
        require_av()
    require(not gif or n <= SHOWN, f"n is {n}; --gif shows up to {SHOWN} pictures.")
    batch = batch or (1 if clips else 4 if loaded.prompts else 64)
    sampler = build(loaded, chosen)
    labels = labels_in_turn(condition, n, loaded.labels, loaded.prompts)
    frames: list[torch.Tensor] = []

    def watch(_: int, x0: torch.Tensor) -> None:
        if gif and len(x0) == n:
            frames.append(grid(sampler.resolved.codec.decode(x0).cpu()))

    facts = {"model": loaded.name, "sha256": loaded.sha256, "seed": seed, "plan": sampler.plan}
    folder = SampleFolder(out, facts, zoom=zoom, fps=fps)
    with tqdm(total=n, unit="clip" if clips else "pic", delay=2, disable=None) as bar:
        for first in range(0, n, n if gif else batch):
            size = min(n if gif else batch, n - first)
            some = None if labels is None else labels[first : first + size]
            folder.add(sampler.sample(size, seed=seed, first=first, condition=some, watch=watch))
            bar.update(size)
    written = folder.close(frames if gif else None)
    took = {"evaluations": sampler.usage.evaluations, "rounds": sampler.usage.rounds}
    result = {**facts, "plan": sampler.plan.model_dump(), "n": n, "out": str(out), **took}
    print(json.dumps(result) if json_ else f"wrote {', '.join(written)} to {out}")
    if not json_ and took["rounds"] < took["evaluations"]:  # several at once
        print("{evaluations:g} network evaluations a picture in {rounds:g} rounds".format(**took))
