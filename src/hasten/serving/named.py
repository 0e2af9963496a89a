"""The plans that a server offers, by name: those of a tuning run, of files, or the model's own."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from hasten.core.errors import UserError, require
from hasten.core.files import TEXT, JsonObject
from hasten.core.model import Model
from hasten.core.plan import Plan

FAST, BALANCED, BEST = "fast", "balanced", "best"
LEVELS = (FAST, BALANCED, BEST)
REPORT, PAGE = "report.json", "report.html"


def named_plans(model: Model, texts: Sequence[str]) -> dict[str, Plan]:
    """The plans of ``texts``, each ``NAME=FILE``, the text or file of a plan (called ``balanced``),
    or the folder of a tuning run. Without any, the model's own plan as ``balanced``, with half its
    steps as ``fast`` and twice as many as ``best``.

    Raises:
        UserError: one that cannot be read, or two of one name.
    """
    out: dict[str, Plan] = {}
    for text in texts:
        for name, plan in _read(text).items():
            require(
                name not in out,
                f"plan: two are called {name!r}; give them names, as in --plan sharp=plan.json.",
            )
            out[name] = plan
    return out or _by_steps(Plan.of(model.plan).decided())


def report_of(texts: Sequence[str]) -> Path | None:
    """The page of the first tuning run among ``texts``."""
    pages = (Path(text) / PAGE for text in texts)
    return next((page for page in pages if page.is_file()), None)


def _read(text: str) -> dict[str, Plan]:
    if Path(text).is_dir():
        return tuned_plans(Path(text))
    name, equals, rest = text.partition("=")
    if equals and name.strip() not in Plan.model_fields:
        name = name.strip()
        require(
            name.isidentifier() and len(name) <= 40,
            f"plan {text!r}: {name!r} is no name; write NAME=FILE, with a name of letters, digits "
            "and _.",
        )
        return {name: Plan.read(rest)}
    return {BALANCED: Plan.read(text)}


def tuned_plans(folder: Path) -> dict[str, Plan]:
    """What ``hasten tune --out`` found: the recommended plan as ``balanced``; the fastest of its
    front as ``fast`` and the most exact as ``best``, where these are others.

    Raises:
        UserError: the folder holds no report of a tuning run.
    """
    try:
        report = json.loads((folder / REPORT).read_text(encoding=TEXT))
        best = Plan.of(report["best"])
        front = [(Plan.of(each["plan"]), each) for each in report["front"]]
    except (OSError, ValueError, KeyError, TypeError, UserError) as error:
        raise UserError(
            f"plan: {folder} holds no {REPORT} of a tuning run that can be read "
            f"({type(error).__name__}); give a folder that hasten tune --out has written, or a "
            "plan file."
        ) from error
    plans = {BALANCED: best}
    if front:
        plans[FAST] = min(front, key=lambda pair: pair[1]["latency_ms"]["median"])[0]
        plans[BEST] = min(front, key=lambda pair: _error(pair[1]))[0]
    distinct = {name: plan for name, plan in plans.items() if name == BALANCED or plan != best}
    return {name: distinct[name] for name in LEVELS if name in distinct}


def _error(finalist: JsonObject) -> float:
    ode = finalist.get("ode_error")
    return float("inf") if ode is None else float(ode["rmse"])


def _by_steps(plan: Plan) -> dict[str, Plan]:
    if plan.steps is None:
        return {BALANCED: plan}
    halved = plan.model_copy(update={"steps": max(1, plan.steps // 2)})
    doubled = plan.model_copy(update={"steps": min(10_000, 2 * plan.steps)})
    return {FAST: halved, BALANCED: plan, BEST: doubled}
