"""The model card of what goes to the hub: what it is, what was measured, which warnings were
recorded, and how to use it. It says what the files say, and nothing else."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from hasten.adapters.folder import one_line
from hasten.adapters.hub import repo_of
from hasten.adapters.hub_contents import CARD, Contents, Planned
from hasten.core.artifact import BUILTIN, HUB
from hasten.core.errors import UserError
from hasten.core.files import TEXT, JsonObject
from hasten.core.lever import Trait
from hasten.core.words import in_words

if TYPE_CHECKING:
    from huggingface_hub import ModelCard

USE = "## Use it from the hub"
NAMES = {
    "evaluations": "network evaluations a picture",
    "ode_error": "ODE error (RMSE)",
    "fd": "FD",
    "kd": "KD",
    "precision": "precision",
    "recall": "recall",
    "prompt_accuracy": "prompt accuracy",
    "peak_mb": "peak memory, MB",
}
WORDS = {"plan": "A plan", "tuned": "A plan", "plans": "Plans", "program": "A learned program"}


def card_of(contents: Contents, repo: str, base_model: str | None) -> str:
    """The text of ``README.md`` for ``contents`` in ``repo``.

    Raises:
        UserError: the card that lies beside a model cannot be read.
    """
    from huggingface_hub import ModelCard

    own = contents.source / CARD
    text = own.read_text(encoding=TEXT) if contents.source.is_dir() and own.is_file() else ""
    try:
        card = ModelCard(text if text.startswith("---") else f"---\n{{}}\n---\n{text}")
    except Exception as error:  # whatever its YAML makes of it
        raise UserError(
            f"{own} has a head that cannot be read ({one_line(error)[:120]}); mend it."
        ) from error
    base = base_model or _base(contents) or card.data.get("base_model")
    _head_(card, contents, base)
    body = card.text.split(USE)[0].strip()
    if contents.plans:
        body = _plans(contents, repo)
    elif not body:
        body = f"# {repo.partition('/')[2]}\n\nA diffusion model, for hasten and diffusers."
    use = _use(contents, repo, base if isinstance(base, str) else None)
    card.text = f"\n{body}\n\n{USE}\n\n{use}\n"
    return str(card)


def _head_(card: ModelCard, contents: Contents, base: str | list[str] | None) -> None:
    """The metadata: what was there stays, and what is known is added. A licence is never made
    up."""
    data = card.data
    if contents.plans:
        data["library_name"] = "hasten"
        data["license"] = None
    data["library_name"] = data.get("library_name") or "diffusers"
    tags = ["hasten", "diffusion", *([contents.kind] if contents.plans else [])]
    data["tags"] = list(dict.fromkeys([*(data.get("tags") or []), *tags]))
    relation = _relation(contents)
    if base:
        data["base_model"] = base
        if relation is not None:
            data["base_model_relation"] = relation


def _relation(contents: Contents) -> str | None:
    """What it is to its base model, in the hub's words."""
    if any(planned.plan.has(Trait.INTEGERS) for planned in contents.plans):
        return "quantized"
    return {"student": "finetune", "lora": "adapter"}.get(contents.kind)


def _base(contents: Contents) -> str | None:
    """The hub's name of the model, where it was tuned by that name."""
    models = {str(planned.report.get("model", "")) for planned in contents.plans}
    names = {model.removeprefix(HUB).partition("@")[0] for model in models if model[:4] == HUB}
    return repo_of(names.pop()) if len(names) == 1 else None


def _plans(contents: Contents, repo: str) -> str:
    """What a repo of plans holds."""
    title, many = repo.partition("/")[2], len(contents.plans) > 1
    head = f"# {title}\n\n{WORDS[contents.kind]} for sampling from a diffusion model with hasten."
    parts = [_plan(planned, f"`{planned.name}`: " if many else "") for planned in contents.plans]
    return "\n\n".join([head, *parts])


def _plan(planned: Planned, named: str) -> str:
    plan, report = planned.plan, planned.report
    lines = [f"## {named}{in_words(plan)}", f"```text\n{plan}\n```"]
    if report.get("model"):
        lines.append(f"Tuned for `{report['model']}`.")
    if planned.weights:
        lines.append(f"Made for the weights with sha256 `{planned.weights}`.")
    rows = list(_measured(report))
    if rows:
        table = ["| measured | value | 95% interval | n |", "|:--|--:|--:|--:|", *rows]
        lines += ["\n".join(table), _conditions(report)]
    if planned.facts:
        facts = [f"- {name}: {_fact(value)}" for name, value in planned.facts.items()]
        lines += ["How it was learned:", "\n".join(facts)]
    warnings = list(_warnings(report))
    if report:
        said = "\n".join(f"- {line}" for line in warnings) or "No warning was recorded."
        lines.append(f"### Recorded warnings\n\n{said}")
    return "\n\n".join(lines)


def _measured(report: JsonObject) -> Iterator[str]:
    """The rows of the numbers that ``hasten tune`` recorded of its best plan."""
    every = [*report.get("front", []), *report.get("finalists", [])]
    found = next((one for one in every if one.get("plan") == report.get("best")), None)
    if found is None:
        return
    yield _row(f"ms for {report.get('batch', 1)}", found.get("race_ms") or found.get("latency_ms"))
    final = found.get("final_quality") or {}
    for field, name in NAMES.items():
        value = final.get(field) or found.get(field)
        if value is not None:
            yield _row(name, value)


def _row(name: str, value: object) -> str:
    """A number, or an estimate with its 95% interval and n."""
    if not isinstance(value, Mapping):
        return f"| {name} | {_number(value)} | | |"
    number = next((value[key] for key in ("value", "rmse", "median") if key in value), None)
    interval = f"{_number(value.get('low'))} to {_number(value.get('high'))}"
    return f"| {name} | {_number(number)} | {interval} | {value.get('n', '')} |"


def _conditions(report: JsonObject) -> str:
    conditions = report.get("conditions") or {}
    named = ", ".join(f"{name} {value}" for name, value in conditions.items() if value is not None)
    return f"On {named}. Other devices and versions give other numbers."


def _warnings(report: JsonObject) -> Iterator[str]:
    if report.get("passed") is False:
        yield "no plan passed the bar; this is the one that came nearest"
    yield from (str(note) for note in report.get("notes", []))


def _use(contents: Contents, repo: str, base: str | None) -> str:
    """Three lines that use it."""
    model, name = base or _shipped(contents) or "the/model", f"{HUB}{repo}"
    build = f'hasten.build(model, "{name}")'
    if len(contents.plans) > 1:
        build = f'hasten.build(model, "{name}/{contents.plans[0].name}")'
    if contents.kind in ("student", "lora"):
        build = f"hasten.build(model, \"levers=student(folder='{name}')\")"
    if contents.kind == "model" or (contents.kind == "student" and not base):
        model, build = name, "hasten.build(model)"
    load = f'model = hasten.load("{model}")'
    asked = " (a pipeline takes `prompts=[...]` as well)" if contents.kind != "model" else ""
    code = f"import hasten\n{load}\npictures = {build}.sample(4)"
    return f"```python\n{code}\n```\n\n`hasten.load` takes the model this is for{asked}."


def _shipped(contents: Contents) -> str | None:
    """The built-in model that all plans are for."""
    named = (one.report.get("model") or one.facts.get("learned for") for one in contents.plans)
    models = {str(name) for name in named}
    return models.pop() if len(models) == 1 and min(models).startswith(BUILTIN) else None


def _fact(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_fact(entry)}" for name, entry in value.items())
    return _number(value) if isinstance(value, (int, float)) else f"`{value}`"


def _number(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return "unknown" if value is None else str(value)
    return (
        f"{value:.4g}" if math.isfinite(value) and not float(value).is_integer() else f"{value:g}"
    )
