"""tune_edit(model, source, prompt) -> EditTuning: the fastest way of making an edit."""

from __future__ import annotations

import hashlib
import itertools
import time
from pathlib import Path

import torch

from hasten.core.errors import require, require_number, require_whole
from hasten.core.model import Model
from hasten.core.plan import Plan
from hasten.editing.clip import as_model_takes
from hasten.editing.edit_plan import EditPlan
from hasten.measuring.conditions import conditions
from hasten.media.reading import open_clip
from hasten.tuning.edit_result import EditTuning
from hasten.tuning.edit_search import EditSearch
from hasten.tuning.edit_trials import EditTrials
from hasten.tuning.journal import Journal
from hasten.tuning.runner import Clock, TrialRunner
from hasten.tuning.space import Space
from hasten.tuning.trials import TrialExecutor
from hasten.tuning.tune import JOURNAL, alone, progress_bar

MOST_FRAMES = 240  # of a clip that are measured


def tune_edit(
    model: Model,
    source: str | Path | torch.Tensor,
    prompt: object,
    *,
    source_prompt: object = None,
    method: str = "flowedit",
    minutes: float = 5.0,
    max_loss: float = 0.1,
    guidance: float | None = None,
    space: Space | None = None,
    out: str | Path | None = None,
    seed: int = 0,
    quiet: bool = True,
    clock: Clock = time.monotonic,
) -> EditTuning:
    """The fastest way of editing ``source`` that is as good as the reference edit: ``method`` with
    many steps, on every frame by itself.

    An edit passes if its strength is at least 1 - ``max_loss`` of the reference's and its
    background error, flicker and warp error are at most 1 + ``max_loss`` times the reference's,
    with small absolute margins. Where prompts of drawn shapes can be checked, its prompt accuracy
    may be ``max_loss`` lower, and has to be 0.5 at least; elsewhere its change has to agree with
    the reference's by 0.5 or more.

    Args:
        source: a clip or picture, as a file or as frames (n, *model.picture_shape) in [0, 1].
        prompt, source_prompt: as :func:`hasten.edit` takes them, for all frames.
        method: of the reference, with its options.
        minutes: the budget; an edit that runs when it ends is given up.
        max_loss: how much of each measure may be lost.
        guidance: the scale of all plans; by default that of the model's own plan.
        space: whose engines are tried; by default all but torch.compile.
        out: a folder for the journal of measurements; a second run there goes on where the first
            ended.
        seed: of the noise, the same for all frames.
        quiet: no progress bar on stderr.
        clock: what everything is timed by, in seconds.

    Raises:
        UserError: an argument is out of range, ``source`` cannot be read, the reference cannot be
            made or changes nothing, or there is no time for it.
    """
    began = clock()
    _require_fitting(model, prompt, source_prompt)
    require_number("minutes", minutes, 0.05, 1e5)
    require_number("max_loss", max_loss, 1e-6, 0.9)
    require_whole("seed", seed, 0, 2**31)
    method = EditPlan(method=method).method
    scale = float(model.plan.get("guidance", 1.0)) if guidance is None else guidance
    Plan(guidance=scale)  # refuses a scale out of range
    frames, note = _frames(model, source)
    executor = TrialExecutor(model=model, seed=seed)
    trials = EditTrials(
        executor=executor, source=frames, prompt=prompt, source_prompt=source_prompt, clock=clock
    )
    with alone(out):
        runner = TrialRunner(
            executor=executor,
            backend=trials,
            journal=_journal(trials, out),
            minutes=minutes,
            clock=clock,
            progress=progress_bar(minutes, quiet),
        )
        runner.began, trials.end = began, began + runner.seconds
        runner.notes += note
        search = EditSearch(
            runner=runner,
            trials=trials,
            space=space or Space(),
            method=method,
            guidance=scale,
            max_loss=max_loss,
        )
        try:
            search.run()
        finally:
            runner.close()
    return EditTuning.of(search)


def _require_fitting(model: Model, prompt: object, source_prompt: object) -> None:
    require(prompt not in (None, ""), "prompt is missing; say what the edit should show.")
    require(
        len(model.picture_shape) == 3,
        f"model {model.name!r} makes clips, and this edits frame by frame; use one of pictures.",
    )
    for text in (prompt, source_prompt):
        model.condition(1, text)  # refuses what the model cannot be asked for


def _frames(model: Model, source: str | Path | torch.Tensor) -> tuple[torch.Tensor, list[str]]:
    """The frames as the model takes them, and a note where they are not all."""
    shape = model.picture_shape
    if isinstance(source, torch.Tensor):
        fits = source.ndim == 4 and len(source) > 0 and tuple(source.shape[1:]) == shape
        require(
            fits and 0.0 <= float(source.min()) <= float(source.max()) <= 1.0,
            f"source is a tensor of the shape {tuple(source.shape)}; model {model.name!r} takes "
            f"(n, {', '.join(map(str, shape))}), numbers from 0 to 1.",
        )
        frames = list(source[: MOST_FRAMES + 1].float().cpu())
    else:
        with open_clip(source) as reader:
            some = itertools.islice(reader, MOST_FRAMES + 1)
            frames = [as_model_takes(pixels[None], shape)[0] for pixels, _ in some]
    longer = f"the first {MOST_FRAMES} frames stand for the clip, which is longer"
    note = [longer] if len(frames) > MOST_FRAMES else []
    return torch.stack(frames[:MOST_FRAMES]), note


def _journal(trials: EditTrials, out: str | Path | None) -> Journal:
    model = trials.executor.model
    subject = {
        "task": "edit",
        "model": model.name,
        "sha256": model.sha256,
        "source": hashlib.sha256(trials.source.numpy().tobytes()).hexdigest(),
        "prompts": [str(trials.prompt), str(trials.source_prompt)],
        "seed": trials.executor.seed,
        "conditions": conditions(model.device),
    }
    return Journal(file=None if out is None else Path(out) / JOURNAL, subject=subject)
