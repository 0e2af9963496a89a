"""``hasten edit``."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from hasten.cli.options import (
    NOTHING,
    Device,
    Flag,
    Json,
    ModelName,
    OwnPlan,
    Parameter,
    Quiet,
    Request,
    model_of,
)

if TYPE_CHECKING:
    from hasten.core.model import Model
    from hasten.editing.clip import ClipEdit

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".avif", ".tif", ".tiff")


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Files:
    """What is read and written, and how it is told."""

    source: Path
    out: Path
    report: Path | None
    as_json: bool
    quiet: bool

    def say(self, text: str, **facts: object) -> None:
        """A line, or ``facts`` as JSON; on stderr where stdout carries the clip."""
        stream = sys.stderr if str(self.out) == "-" else sys.stdout
        line = json.dumps({**facts, "out": str(self.out)}) if self.as_json else text
        print(line, file=stream)
        if self.report is not None and not self.as_json:
            print(f"wrote {self.report / 'report.html'}", file=stream)


def edit(
    model: ModelName = "builtin:shapes",
    *,
    input_: Annotated[Path, Parameter(name="--input", allow_leading_hyphen=True)],
    out: Annotated[Path, Parameter(allow_leading_hyphen=True)],
    source_prompt: str | None = None,
    method: str | None = None,
    plan: OwnPlan = None,
    mask: Path | None = None,
    similar: float | None = None,
    depth: int | None = None,
    every: int | None = None,
    late: str | None = None,
    report: Path | None = None,
    baseline: Flag = False,
    seed: int = 0,
    request: Request = NOTHING,
    device: Device = "cpu",
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Edit a picture, a clip or a camera so that it shows --prompt. Frames are edited and written
    as they come, in constant memory; their times, and the sound of a file, are kept.

    Args:
        input_: a picture, a clip that PyAV reads, - for a clip on stdin, or camera:0.
        out: the file to write: a PNG for a picture, an MP4 for a clip; - for Matroska on stdout,
            as in | mpv -.
        source_prompt: what the input shows.
        method: sdedit, flowedit, flowalign, inversion, rf-inversion or masked, with options as in
            "sdedit(strength=0.5)"; flowedit by default.
        plan: a plan file, or key=value,...; the model's own by default. One that hasten tune --task
            edit wrote also says method, similar, depth and every, unless they are given here.
        mask: a picture of the input's size, white where it may change (for pictures).
        similar: frames that differ from the last edited one by less than this (mean absolute
            difference of pixels, 0 to 1) repeat its edit; 0, the default, edits every frame.
        depth: at most so many frames share a network call; 1 edits frame by frame. By default as
            many as an edit has evaluations. Not with --every.
        every: edit only every Nth frame, and move its edit along with the object in the frames
            between; needs a camera that stands still.
        late: what happens when frames arrive faster than they are edited. wait: the source waits,
            the default for files and pipes. drop: frames are skipped, always for cameras; a file
            is then read at its own frame rate.
        report: a folder for a page that shows source and edit side by side, and what was measured.
        baseline: also edit every frame by itself, and say in the report how much slower that is.
        seed: of the noise.
    """
    from hasten.core.errors import require
    from hasten.editing.edit_plan import EditPlan

    require(not baseline or report is not None, "--baseline is for a report; name its --report.")
    require(
        depth is None or every in (None, 1),
        "--depth has no effect with --every, whose key frames are edited one at a time; leave one "
        "of them out.",
    )
    ways = {"method": method, "similar": similar, "depth": depth, "every": every}
    ways = {name: value for name, value in ways.items() if value is not None}
    chosen = (EditPlan() if plan is None else EditPlan.read(plan)).with_fields(**ways)
    loaded, prompt, shown = loaded_to_edit(model, request, source_prompt, device)
    options: dict[str, Any] = {
        "method": chosen.method,
        "plan": chosen.plan,
        "seed": seed,
        "source_prompt": shown,
    }
    files = _Files(source=input_, out=out, report=report, as_json=json_, quiet=quiet)
    if input_.suffix.lower() in PICTURES:
        given = [name for name in ways if name != "method"]
        given += [name for name, value in {"late": late, "baseline": baseline}.items() if value]
        require(
            not given, f"{_flags(given)}: only for clips, and {input_} is a picture; leave it out."
        )
        _picture(loaded, files, mask, prompt, options)
        return
    require(
        mask is None,
        "--mask: only for pictures, and the input is a clip; leave it out, or edit a frame.",
    )
    _clip(loaded, files, prompt, options, chosen.streaming, late, baseline)


def _flags(names: list[str]) -> str:
    return ", ".join(f"--{name.replace('_', '-')}" for name in names)


def loaded_to_edit(
    name: str, request: Request, source_prompt: str | None, device: str
) -> tuple[Model, int | str, int | str | None]:
    """The model, loaded for the prompt and for what the source shows, and both as it takes them:
    one of classes by their numbers."""
    from hasten.adapters.pipeline_notes import reads_prompts
    from hasten.core.errors import require

    texts = request.texts() or []
    require(len(texts) == 1, f"an edit takes one --prompt, and there are {len(texts)}.")
    both = [*texts, *([source_prompt] if source_prompt else [])]
    prompt = both if reads_prompts(name) else None
    asked = dataclasses.replace(request, prompt=prompt, prompts=None)
    model = model_of(name, asked, device)
    texts = both if model.prompts else [int(text) if text.isdecimal() else text for text in both]
    return model, texts[0], texts[1] if source_prompt else None


def _picture(
    model: Model, files: _Files, mask: Path | None, prompt: object, options: dict[str, Any]
) -> None:
    from hasten.core.errors import require
    from hasten.data.rows import to_tensor
    from hasten.editing.clip import resized
    from hasten.editing.edit import edit as edited
    from hasten.media.pictures import open_picture, save_png

    out = files.out
    require(out.suffix.lower() == ".png", f"out is {str(out)!r}; a picture is written as .png.")
    picture = open_picture(files.source, "input")
    channels, height, width = model.picture_shape
    own = (picture.height, picture.width)
    pixels = to_tensor(picture, (channels, *own))[None].float() / 255
    region = None
    if mask is not None:
        marked = to_tensor(open_picture(mask, "mask"), (1, *own))[None].float() / 255
        region = (resized(marked, (height, width))[:, 0] > 0.5).float()
    began = time.perf_counter()
    made = edited(model, resized(pixels, (height, width)), prompt, mask=region, **options)
    seconds = time.perf_counter() - began
    shown = resized(made, own)[0]
    facts = {"model": model.name, "prompt": prompt, "method": options["method"]}
    save_png(shown, out, facts)
    if files.report is not None:
        from hasten.editing.report import picture_facts, picture_report

        facts = picture_facts(model, prompt, masked=mask is not None, **options)
        facts = {"input": str(files.source), **facts, "seconds": seconds}
        picture_report(files.report, pixels[0], shown, facts)
    files.say(f"wrote {out}")


def _clip(
    model: Model,
    files: _Files,
    prompt: object,
    options: dict[str, Any],
    settings: Any,
    late: str | None,
    baseline: bool,
) -> None:
    from tqdm import tqdm

    from hasten.core.errors import require
    from hasten.editing.clip import ClipEditor

    places = (files.source, files.out)
    require(
        files.report is None or late != "drop",
        "a report compares every frame, and late is 'drop'; leave one of them out.",
    )
    editor = ClipEditor.of(model, prompt, **options)
    with tqdm(unit="frame", file=sys.stderr, disable=files.quiet or None) as bar:
        told = {"settings": settings, "progress": _shown_by(bar)}
        if files.report is None:
            result = editor(*places, late=late, **told)
        else:
            from hasten.editing.report import edit_with_report

            result = edit_with_report(editor, *places, files.report, baseline=baseline, **told)
    repeated = result.frames - result.edited - result.carried
    files.say(
        f"wrote {files.out}: {result.frames} frames, {result.frames_a_second:.1f} a second, "
        f"latency {1e3 * result.latency:.0f} ms, {result.evaluations} network evaluations an "
        "edited frame"
        + (f", {result.carried} carried over from key frames" if result.carried else "")
        + (f", {repeated} repeated" if repeated else "")
        + (f", {result.skipped} of the source skipped" if result.skipped else ""),
        **dataclasses.asdict(result),
    )


def _shown_by(bar: Any) -> Callable[[ClipEdit], None]:
    """What shows frames, frames a second and latency on a progress line."""

    def progress(so_far: ClipEdit) -> None:
        skipped = f", {so_far.skipped} skipped" if so_far.skipped else ""
        bar.set_postfix_str(f"latency {1e3 * so_far.latency:.0f} ms{skipped}", refresh=False)
        bar.update()

    return progress
