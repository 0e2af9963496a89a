"""An edit with a page about it: source and edit side by side, what was measured, and how."""

from __future__ import annotations

import dataclasses
import itertools
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from hasten.core.errors import require
from hasten.core.files import require_writable
from hasten.core.model import Model
from hasten.core.plan import PlanLike
from hasten.editing.clip import ClipEdit, ClipEditor, Progress, as_model_takes
from hasten.editing.measures import Flow, Measures, known_flow, measured
from hasten.editing.method import methods
from hasten.editing.page import BASELINE, EDIT, SOURCE, Shown, write_page
from hasten.editing.stream import Streaming
from hasten.measuring.conditions import conditions
from hasten.media.live import is_camera, is_pipe
from hasten.media.page import plotly_source
from hasten.media.pictures import save_png
from hasten.media.reading import open_clip
from hasten.media.writing import ClipWriter
from hasten.sampling import resolve

ALONE = Streaming(depth=1)  # every frame by itself
WARM = 8  # frames that are edited before anything is timed
FILES = {SOURCE: "source.mp4", EDIT: "edited.mp4", BASELINE: "frame-by-frame.mp4"}


def edit_with_report(
    editor: ClipEditor,
    source: str | Path,
    out: str | Path,
    folder: str | Path,
    *,
    settings: Streaming | None = None,
    baseline: bool = False,
    flow: Flow | None = None,
    progress: Progress | None = None,
) -> ClipEdit:
    """Edit a clip as ``editor`` does, and write report.html and report.json about it to ``folder``,
    with the clips beside them.

    Strength, flicker and warp error are measured on the written files, after timing.

    Args:
        source: a file; it is read again.
        baseline: also edit every frame by itself, with the same noise; both are timed in this
            process, one after the other, after the first frames were edited once in each way.
        flow: of the source, where it is known; by default DIS, where OpenCV is installed.

    Raises:
        UserError: a pipe or a camera, nothing to compare, plotly is missing, or what
            :meth:`ClipEditor.__call__` refuses.
    """
    settings, flow = settings or Streaming(), flow or known_flow()
    folder, plotly = _require_reported(source, out, folder), plotly_source()
    require(
        not baseline or settings != ALONE,
        "--baseline compares with editing every frame by itself, and these settings already do; "
        "leave it out.",
    )
    folder.mkdir(parents=True, exist_ok=True)
    if baseline:
        _warm_up(editor, source, (settings, ALONE))
    took = {EDIT: editor(source, out, settings=settings, progress=progress)}
    clips = {SOURCE: source, EDIT: out}
    if baseline:
        clips[BASELINE] = folder / FILES[BASELINE]
        took[BASELINE] = editor(source, clips[BASELINE], settings=ALONE, progress=progress)
    found = measured(list(clips.values()), flow)
    times = _write_source(source, folder / FILES[SOURCE])
    if Path(out).resolve() != (folder / FILES[EDIT]).resolve():
        shutil.copyfile(out, folder / FILES[EDIT])
    shown = [
        Shown(name=name, file=FILES[name], took=took.get(name), measures=each)
        for name, each in zip(clips, found, strict=True)
    ]
    sampler = editor.editor.sampler
    facts = {
        "input": str(source),
        "model": editor.model.name,
        "prompt": editor.prompt,
        "source prompt": editor.source_prompt,
        "method": methods.text(editor.editor.method),
        "plan": str(sampler.plan),
        "seed": editor.seed,
        **dataclasses.asdict(settings),
        **conditions(editor.model.device, sampler.plan.dtype),
    }
    write_page(folder, shown, facts, times=times, plotly=plotly)
    return took[EDIT]


def picture_report(
    folder: str | Path, source: torch.Tensor, edited: torch.Tensor, facts: Mapping[str, object]
) -> None:
    """Write report.html and report.json about an edited picture (c, h, w) in [0, 1] to ``folder``,
    with both pictures beside them.

    Args:
        facts: how it was made.

    Raises:
        UserError: Jinja2 is missing, or the folder cannot be written.
    """
    shown = []
    for name, picture in ((SOURCE, source), (EDIT, edited)):
        save_png(picture, Path(folder) / f"{name}.png")
        change = float((picture - source).abs().mean())
        shown.append(Shown(name=name, file=f"{name}.png", measures=Measures(strength=[change])))
    write_page(Path(folder), shown, facts)


def picture_facts(
    model: Model,
    prompt: object,
    *,
    source_prompt: object,
    method: str,
    plan: PlanLike | None,
    seed: int,
    masked: bool,
) -> dict[str, object]:
    """How a picture is edited: the arguments of :func:`hasten.edit`, what they come to, and the
    machine."""
    resolved = resolve(model.plan if plan is None else plan, model)
    part = methods.parse(method)
    return {
        "model": model.name,
        "prompt": prompt,
        "source prompt": source_prompt,
        "method": methods.text(part),
        "plan": str(resolved.plan),
        "seed": seed,
        "masked": masked,
        "evaluations": part.program(resolved.solver, resolved.levels, masked=masked).evaluations,
        **conditions(model.device, resolved.plan.dtype),
    }


def _require_reported(source: str | Path, out: str | Path, folder: str | Path) -> Path:
    """``folder``, where a report can be written there."""
    live = is_pipe(source) or is_camera(source)
    require(
        not live,
        f"a report reads its source again, and input is {str(source)!r}; record it to a file.",
    )
    require(not is_pipe(out), "a report shows the edit from its file, and out is '-'; name one.")
    folder = require_writable(folder)
    require(not folder.is_file(), f"report is {str(folder)!r}, a file; name a folder.")
    own = [(folder / file).resolve() for file in FILES.values()]
    require(
        Path(source).resolve() not in own and Path(out).resolve() not in (own[0], own[2]),
        f"the report writes {', '.join(FILES.values())} to {folder}; read and write the clip under "
        "other names.",
    )
    return folder


def _warm_up(editor: ClipEditor, source: str | Path, ways: Sequence[Streaming]) -> None:
    """Edit the first frames, so that no way pays for what the first call compiles."""
    with open_clip(source) as reader:
        first = torch.stack([pixels for pixels, _ in itertools.islice(reader, WARM)])
    frames = as_model_takes(first, editor.model.picture_shape)
    for settings in ways:
        for _ in editor.stream(settings)(frames):
            pass


def _write_source(source: str | Path, file: Path) -> list[float]:
    """The source as a file that every browser plays, and the times of its frames."""
    times = []
    with open_clip(source) as reader:
        shown = reader.facts
        size = (shown.width, shown.height, shown.rate)
        with ClipWriter(file, *size, audio_from=reader) as writer:
            for pixels, moment in reader:
                writer.write(pixels[:3], moment)
                times.append(float(moment))
    return times
