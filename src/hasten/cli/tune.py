"""``hasten tune``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from hasten.cli.options import (
    NOTHING,
    Device,
    Json,
    ModelName,
    Parameter,
    Quiet,
    Request,
    model_of,
)
from hasten.core.errors import NoPlanPasses, UserError, require

if TYPE_CHECKING:
    from hasten.core.model import Model
    from hasten.tuning.edit_result import EditTuning
    from hasten.tuning.result import Tuning


def tune(
    model: ModelName = "builtin:mnist",
    *,
    task: Literal["sample", "edit"] = "sample",
    input_: Annotated[Path | None, Parameter(name="--input")] = None,
    source_prompt: str | None = None,
    method: str | None = None,
    minutes: float = 5.0,
    max_loss: float | None = None,
    data: str | None = None,
    features: str | None = None,
    guidance: float | None = None,
    batch: int = 1,
    request: Request = NOTHING,
    out: Path = Path("tuned"),
    seed: int = 0,
    device: Device = "cpu",
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Find the fastest plan that keeps quality on this device, and write a report with pictures.
    With --task edit: find the fastest way of making an edit, and write a plan for hasten edit.

    Args:
        task: sample, or edit.
        input_: for edit: a clip or a picture, which is edited to show --prompt.
        source_prompt: for edit: what the input shows.
        method: for edit: that of the reference edit, which others are compared with; flowedit by
            default.
        minutes: the time budget.
        max_loss: how much quality may be lost. With real pictures: the share by which FD may be
            above, and recall below, those of the best plan found. Without: the RMSE from the
            model's converged solution (pixels in 0 to 1). 0.05 by default. For edit: how much edit
            strength, prompt accuracy, background and steadiness may be lost against the reference
            edit (50 steps, every frame); 0.1 by default.
        data: real pictures (a parquet file, a folder, a hub name), where none ship with the model;
            without any, the ODE error alone decides.
        features: what FD compares in: random, or a vision model's folder or hub id.
        guidance: the classifier-free guidance scale of all plans; by default the model's own.
        batch: how many pictures at a time the plan is for.
        out: the folder to write; a second run there resumes the first.
        seed: of the reference's noise and of the search.
    """
    from hasten.core.report import finite

    bar = {} if max_loss is None else {"max_loss": max_loss}
    options: dict[str, Any] = {"minutes": minutes, "guidance": guidance, "seed": seed, **bar}
    options |= {"out": out, "quiet": quiet}
    if task == "edit":
        _refuse(task, data=data, features=features, batch=None if batch == 1 else batch)
        options |= {} if method is None else {"method": method}
        edit = _tuned_edit(model, input_, source_prompt, request, device, options)
        tuned, show = edit, lambda: _print_edit(edit, out)
    else:
        _refuse(task, input=input_, source_prompt=source_prompt, method=method)
        options |= {"data": data, "features": features, "batch": batch}
        plan = _tuned(model_of(model, request, device), options)
        tuned, show = plan, lambda: _print(plan, out)
    if json_:
        print(json.dumps(finite(tuned.to_dict())))
    else:
        show()
    if not tuned.passed:
        raise NoPlanPasses(f"no plan passes; {out / 'plan.json'} is the one that came nearest.")


def _refuse(task: str, **options: object) -> None:
    """Options of the other task are not ignored."""
    given = [name for name, value in options.items() if value is not None]
    flags = ", ".join(f"--{name.replace('_', '-')}" for name in given)
    require(not given, f"{flags}: not for --task {task}; leave it out.")


def _tuned(model: Model, options: dict[str, Any]) -> Tuning:
    from hasten.tuning.page import write_report
    from hasten.tuning.tune import tune as run

    tuned = run(model, **options)
    write_report(tuned, model, options["out"])
    return tuned


def _tuned_edit(
    name: str,
    source: Path | None,
    source_prompt: str | None,
    request: Request,
    device: str,
    options: dict[str, Any],
) -> EditTuning:
    from hasten.cli.edit import loaded_to_edit
    from hasten.tuning.tune_edit import tune_edit

    if source is None:
        raise UserError("--task edit needs a clip or a picture; name it with --input.")
    model, prompt, shown = loaded_to_edit(name, request, source_prompt, device)
    tuned = tune_edit(model, source, prompt, source_prompt=shown, **options)
    tuned.write(options["out"])
    return tuned


def _print_edit(tuned: EditTuning, out: Path) -> None:
    tuned.print_front()
    for line in (tuned.why, *tuned.notes, f"plan: {tuned.best}"):
        print(line)
    print(f"wrote plan.json, for hasten edit --plan, and report.json to {out}")


def _print(tuned: Tuning, out: Path) -> None:
    from hasten.tuning.table import print_finalists

    print_finalists(tuned.front)
    print(tuned.why)
    for note in tuned.notes:
        print(note)
    if tuned.expected is not None:
        low, high = tuned.expected.low, tuned.expected.high
        print(f"a fresh process is expected to take {low:.1f} to {high:.1f} ms (99%)")
    print(f"plan: {tuned.best}")
    print(f"wrote plan.json, report.html, report.json and pictures to {out}")
