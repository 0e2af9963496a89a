"""tune(model) -> Tuning: which plan to use on this model and this device.

Cheap measurements first, each made in a process of its own and written to a journal:
1. what one network call costs in every engine and dtype, and whether its answer is right;
2. the ODE error of programs (solver, grid, steps) on few samples: :mod:`hasten.tuning.search`;
3. a full report of what is on the front or near it, in the fastest engines;
4. FD, KD, precision and recall, of few samples first, where there are real pictures;
5. a race: the finalists timed in turn, and the winner again in fresh processes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import filelock
import torch
from tqdm import tqdm

from hasten.adapters.load import Pipeline, load
from hasten.core.engine import engines
from hasten.core.errors import UserError, require, require_number, require_whole
from hasten.core.files import require_writable
from hasten.core.model import Model
from hasten.core.plan import Plan
from hasten.measuring.conditions import conditions
from hasten.measuring.ode_error import reference_plan
from hasten.measuring.real import FEWEST, real_for
from hasten.tuning.journal import Journal
from hasten.tuning.result import Tuning
from hasten.tuning.runner import TrialRunner
from hasten.tuning.serialization import Json
from hasten.tuning.settings import TunerSettings
from hasten.tuning.space import Space, learned_files
from hasten.tuning.trials import TrialExecutor
from hasten.tuning.tuning_run import TuningRun
from hasten.tuning.worker import InProcess, WorkerProcess

JOURNAL = "trials.jsonl"  # in the folder that is written


def tune(
    model: Model | Pipeline,
    *,
    prompts: Sequence[str | int] | None = None,
    negative: str | None = None,
    minutes: float = 5.0,
    max_loss: float = 0.05,
    data: str | None = None,
    features: str | None = None,
    guidance: float | None = None,
    batch: int = 1,
    space: Space | None = None,
    out: str | Path | None = None,
    seed: int = 0,
    quiet: bool = True,
    settings: TunerSettings | None = None,
    **call: Any,
) -> Tuning:
    """The best plan for ``model`` on its device.

    Args:
        model: a Model, or a live diffusers pipeline: then only what :func:`hasten.apply` can put
            onto it is tried, with its own guidance.
        prompts, negative: what a pipeline is asked for, see :func:`hasten.load`.
        minutes: the budget, the final timing and the fresh processes included; measurements begun
            in it are finished.
        max_loss: how much may be lost. With real pictures: by what share FD may be above, and by
            how much recall below, the most faithful plan's. Without: how far a sample may be from
            the model's converged solution (ODE error: RMSE, pixels in 0 to 1).
        data: real pictures (a parquet file, a folder, a hub name); without them, and without
            statistics that ship with the model, ODE error alone decides.
        features: what FD compares in: "random", or a vision model's folder or hub id; by default
            what ships with the model, else "random".
        guidance: the classifier-free guidance scale that all plans use; by default that of the
            model's own plan.
        batch: how many samples at a time the plan is for.
        space: the plans to consider; by default every solver, grid and engine.
        out: a folder for the journal of measurements; a second run there goes on where the first
            ended.
        seed: of the reference's noise and of the search.
        quiet: no progress bar on stderr.
        settings: how the budget is divided, and what else the tuner decides by.
        call: arguments of a pipeline's own call, such as ``height``.

    Raises:
        UserError: an argument is out of range, no time is left for a single plan, or ``out`` holds
            measurements of something else.
    """
    if not isinstance(model, Model):
        model = load(model, prompts=prompts, negative=negative, **call)
        space = space or Space(engines=_carried(model.dtype, model.device.type))
        settings = dataclasses.replace(
            settings or TunerSettings(), parallel_share=0.0, for_apply=True
        )
    else:
        settled = [*(["prompts"] if prompts else []), *(["negative"] if negative else []), *call]
        require(
            not settled,
            f"tune: {', '.join(settled)} cannot be given with a Model, which has its conditions "
            "already; give them to hasten.load.",
        )
    require_number("minutes", minutes, 0.05, 1e5)
    require_number("max_loss", max_loss, 1e-6, 10)
    require_whole("batch", batch, 1, 1 << 16)
    require_whole("seed", seed, 0, 2**31)
    scale: float = model.plan.get("guidance", 1.0) if guidance is None else guidance
    Plan(guidance=scale)  # refuses a scale out of range
    real_for(model, data, features, FEWEST)  # refuses what cannot be read before a file is written
    with tempfile.TemporaryDirectory(prefix="hasten-tune-") as scratch, alone(out):
        folder = Path(scratch) if out is None else Path(out)
        executor = TrialExecutor(
            model=model, seed=seed, data=data, features=features, folder=folder
        )
        journal = Journal(
            file=None if out is None else folder / JOURNAL,
            subject=subject_of(executor, scale, batch),
        )
        runner = _runner(executor, journal, minutes, settings or TunerSettings(), quiet)
        run = TuningRun(
            runner=runner,
            space=space or Space(),
            max_loss=max_loss,
            guidance=scale,
            batch=batch,
            folder=None if out is None else folder,
        )
        try:
            return run.result()
        finally:
            runner.close()


def _carried(own: torch.dtype, device: str) -> tuple[tuple[str, str], ...]:
    """The engines and dtypes that a pipeline can be given: its own dtype, or in torch a narrower
    one."""
    name = str(own).removeprefix("torch.")
    dtypes = (name, "bfloat16") if own == torch.float32 else (name,)
    return tuple(
        (engine, dtype)
        for engine, dtype in Space().engines_on(device)
        if dtype in dtypes and (dtype == "float32" or not engines[engine].own_threads)
    )


@contextlib.contextmanager
def alone(out: str | Path | None) -> Iterator[None]:
    """Refuse where another tuner writes to ``out``; the lock goes with its process, however that
    ends."""
    if out is None:
        yield
        return
    require_writable(Path(out) / JOURNAL)
    try:
        with filelock.FileLock(lock_of(out), timeout=0):
            yield
    except filelock.Timeout as error:
        raise UserError(
            f"another `hasten tune` writes to {out}; wait until it has ended, or choose another "
            "--out."
        ) from error


def lock_of(out: str | Path) -> Path:
    """The file that is locked while a tuner writes to ``out``; not in it, so that a run that fails
    leaves nothing there."""
    name = hashlib.sha256(str(Path(out).resolve()).encode()).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"hasten-tune-{name}.lock"


def _runner(
    executor: TrialExecutor, journal: Journal, minutes: float, settings: TunerSettings, quiet: bool
) -> TrialRunner:
    """Measures in a process of its own where the model lies in a folder, else in this one."""
    isolated = executor.model.folder is not None
    return TrialRunner(
        executor=executor,
        backend=WorkerProcess(executor) if isolated else InProcess(executor),
        journal=journal,
        minutes=minutes,
        settings=settings,
        progress=progress_bar(minutes, quiet),
    )


def progress_bar(minutes: float, quiet: bool) -> tqdm[NoReturn]:
    """The seconds of a budget on stderr, unless ``quiet``."""
    return tqdm(
        total=round(minutes * 60),
        disable=quiet,
        file=sys.stderr,
        bar_format="tuning {percentage:3.0f}%|{bar:20}| {elapsed} of {total} s{postfix}",
    )


def subject_of(executor: TrialExecutor, guidance: float, batch: int) -> Json:
    """What the measurements of a journal belong to."""
    model = executor.model
    return {
        "model": model.name,
        "sha256": model.sha256,
        **({"prompts": list(model.prompts)} if model.prompts else {}),
        "reference": str(reference_plan(Plan(guidance=guidance))),
        "batch": batch,
        "seed": executor.seed,
        "data": [_fingerprint(executor.data), _fingerprint(executor.features)],
        "learned": learned_files(model),
        "conditions": conditions(model.device),
    }


def _fingerprint(source: str | None) -> object:
    """What differs once the files of ``source`` were replaced; a hub name stays as it is."""
    path = Path(source or "")
    if source is None or not path.exists():
        return source
    files = [path] if path.is_file() else sorted(path.rglob("*"))
    stats = [file.stat() for file in files]
    newest = max(stat.st_mtime_ns for stat in stats) if stats else 0
    return [source, len(files), sum(stat.st_size for stat in stats), newest]
