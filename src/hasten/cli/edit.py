"""``hasten edit``."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from hasten.cli.options import (
    NOTHING,
    Device,
    Json,
    ModelName,
    Parameter,
    PlanText,
    Quiet,
    Request,
    model_of,
    plan_of,
)

if TYPE_CHECKING:
    from hasten.core.model import Model

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".avif", ".tif", ".tiff")


def edit(
    model: ModelName = "builtin:shapes",
    *,
    input_: Annotated[Path, Parameter(name="--input")],
    out: Path,
    source_prompt: str | None = None,
    method: str = "flowedit",
    plan: PlanText = None,
    mask: Path | None = None,
    similar: float = 0.0,
    depth: int = 1 << 16,
    every: int = 1,
    seed: int = 0,
    request: Request = NOTHING,
    device: Device = "cpu",
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Edit a picture or a clip so that it shows --prompt. A clip is edited frame by frame, in
    constant memory; its sound and the times of its frames are kept.

    Args:
        input_: a picture, or a clip that PyAV reads.
        out: the file to write: a PNG for a picture, an MP4 for a clip.
        source_prompt: what the input shows.
        method: sdedit, flowedit, flowalign, inversion, rf-inversion or masked, with options as in
            "sdedit(strength=0.5)".
        mask: a picture of the input's size, white where it may change (for pictures).
        similar: frames that differ from the last edited one by less than this (mean absolute
            difference of pixels, 0 to 1) repeat its edit; 0 edits every frame.
        depth: frames that share a network call, at most; 1 is frame by frame.
        every: edit every so many frames only, and move their edits along with what was changed in
            those between; for a camera that stands still.
        seed: of the noise.
    """
    from hasten.core.errors import require
    from hasten.editing.stream import Streaming

    texts = request.texts() or []
    require(len(texts) == 1, f"edit takes one --prompt, and there are {len(texts)}.")
    both = [*texts, *([source_prompt] if source_prompt else [])]
    loaded = _loaded(model, both, request, device)
    options: dict[str, Any] = {"method": method, "plan": plan_of(plan), "seed": seed}
    asked = both if loaded.prompts else [_label(text) for text in both]
    shows, shown = asked[0], asked[1] if source_prompt else None
    settings = {"similar": similar, "depth": depth, "every": every}
    if input_.suffix.lower() in PICTURES:
        given = [name for name, value in settings.items() if value != getattr(Streaming(), name)]
        require(not given, f"{', '.join(given)}: for clips, and {input_} is a picture; drop it.")
        _picture(loaded, input_, out, mask, shows, {**options, "source_prompt": shown})
        print(json.dumps({"out": str(out)}) if json_ else f"wrote {out}")
        return
    require(mask is None, "mask is for pictures; drop it, or edit a frame.")
    _clip(
        loaded,
        (input_, out),
        shows,
        {**options, "source_prompt": shown},
        settings,
        (json_, quiet),
    )


def _loaded(name: str, texts: list[str], request: Request, device: str) -> Model:
    """The model, loaded for both prompts; one of classes takes them as labels."""
    from hasten.adapters.pipeline_notes import reads_prompts

    prompt = texts if reads_prompts(name) else None
    return model_of(name, dataclasses.replace(request, prompt=prompt, prompts=None), device)


def _label(text: str) -> int | str:
    return int(text) if text.isdecimal() else text


def _picture(
    model: Model,
    source: Path,
    out: Path,
    mask: Path | None,
    prompt: object,
    options: dict[str, Any],
) -> None:
    from hasten.core.errors import require
    from hasten.data.rows import to_tensor
    from hasten.editing.clip import resized
    from hasten.editing.edit import edit as edited
    from hasten.media.pictures import open_picture, save_png

    require(out.suffix.lower() == ".png", f"out is {str(out)!r}; a picture is written as .png.")
    picture = open_picture(source, "input")
    channels, height, width = model.picture_shape
    own = (picture.height, picture.width)
    pixels = to_tensor(picture, (channels, *own))[None].float() / 255
    region = None
    if mask is not None:
        marked = to_tensor(open_picture(mask, "mask"), (1, *own))[None].float() / 255
        region = (resized(marked, (height, width))[:, 0] > 0.5).float()
    made = edited(model, resized(pixels, (height, width)), prompt, mask=region, **options)
    facts = {"model": model.name, "prompt": prompt, "method": options["method"]}
    save_png(resized(made, own)[0], out, facts)


def _clip(
    model: Model,
    files: tuple[Path, Path],
    prompt: object,
    options: dict[str, Any],
    settings: dict[str, Any],
    shown: tuple[bool, bool],
) -> None:
    from tqdm import tqdm

    from hasten.editing.clip import edit_clip
    from hasten.editing.stream import Streaming

    source, out = files
    as_json, quiet = shown
    with tqdm(unit="frame", file=sys.stderr, disable=quiet or None) as bar:
        result = edit_clip(
            model,
            source,
            out,
            prompt,
            settings=Streaming(**settings),
            progress=lambda _: bar.update(),
            **options,
        )
    if as_json:
        print(json.dumps({**dataclasses.asdict(result), "out": str(out)}))
        return
    repeated = result.frames - result.edited - result.carried
    print(
        f"wrote {out}: {result.frames} frames, {result.frames_a_second:.1f} a second, latency "
        f"{1e3 * result.latency:.0f} ms, {result.evaluations} network evaluations an edited frame"
        + (f", {result.carried} carried over from key frames" if result.carried else "")
        + (f", {repeated} repeated" if repeated else "")
    )
