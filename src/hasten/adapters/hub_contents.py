"""What of a file or folder goes to the hub: plans, learned programs, students, models."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import hasten
from hasten.adapters.folder import FACTS, INDEX
from hasten.adapters.hub import FILES, INSIDE, OURS, PLAN, is_data
from hasten.adapters.lora import WEIGHTS as LORA
from hasten.adapters.plan_files import files_of, renamed
from hasten.core.errors import UserError, require
from hasten.core.files import MANIFEST, JsonObject, cache_root, read_json, verify
from hasten.core.learned_program import FORMAT, LearnedProgram
from hasten.core.plan import Plan
from hasten.core.plan_upgrade import plans_of

CARD, REPORT, JOURNAL = "README.md", "report.json", "trials.jsonl"
PROGRAM = "program.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Planned:
    """A plan that goes to the hub.

    Attributes:
        plan: as the repo has it; name: of its file there.
        weights: sha256 of the weights it was made for, "" where that is not recorded.
        report: what ``hasten tune`` recorded of it; facts: of a learned program.
        sources: the files it names, by their names in the repo.
    """

    plan: Plan
    name: str = PLAN
    weights: str = ""
    report: JsonObject = dataclasses.field(default_factory=dict)
    facts: JsonObject = dataclasses.field(default_factory=dict)
    sources: Mapping[str, Path] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Contents:
    """What goes to the hub.

    Attributes:
        kind: plan, program, tuned, plans, model, student or lora; source: where it came from.
        plans: those that are files of their own; files: all others, by their names in the repo.
        facts: ``hasten.json`` of a model; left_out: files that do not go, as they are no data.
    """

    kind: str
    source: Path
    plans: tuple[Planned, ...] = ()
    files: Mapping[str, Path] = dataclasses.field(default_factory=dict)
    facts: JsonObject = dataclasses.field(default_factory=dict)
    left_out: tuple[str, ...] = ()

    @property
    def manifest(self) -> JsonObject:
        """What the manifest says beside the files."""
        weights = {planned.name: planned.weights for planned in self.plans}
        version = hasten.__version__
        return {OURS: {"kind": self.kind, "version": version, "plans": weights}}

    def write(self, folder: Path) -> None:
        """Put all of it but the card into ``folder``."""
        for name, file in self.files.items():
            _copy(file, folder / name)
        for planned in self.plans:
            for name, file in planned.sources.items():
                _copy(file, folder / name)
            planned.plan.write(folder / planned.name)


def contents_of(what: str | Path) -> Contents:
    """What of ``what`` goes to the hub.

    Raises:
        UserError: it is nothing that hasten wrote, is damaged, or names a file that is not there.
    """
    source = Path(what).expanduser()
    if source.is_file():
        return _file(source)
    require(
        source.is_dir(),
        f"{what} is no file and no folder here; give a plan, a learned program, or a folder that "
        "hasten wrote.",
    )
    if (source / FACTS).is_file():
        return _model(source)
    if (source / PLAN).is_file():
        tuned = _tuned(source, "")
        report = {REPORT: source / REPORT} if tuned.report else {}
        kind = "tuned" if tuned.report else "plan"
        return Contents(kind=kind, source=source, plans=(tuned,), files=report)
    inner = sorted(file.parent for file in source.glob(f"*/{PLAN}"))
    require(
        bool(inner),
        f"{source} holds no {FACTS} of a model, no {PLAN}, and no folders with one; give what "
        "`hasten tune`, `hasten learn` or `hasten train` wrote.",
    )
    plans = tuple(_tuned(folder, f"{folder.name}/") for folder in inner)
    reports = {
        f"{folder.name}/{REPORT}": folder / REPORT
        for folder in inner
        if (folder / REPORT).is_file()
    }
    return Contents(kind="plans", source=source, plans=plans, files=reports)


def _file(source: Path) -> Contents:
    body = read_json(source) if source.suffix == ".json" else None
    if isinstance(body, dict) and body.get("format") == FORMAT:
        learned = LearnedProgram.read(str(source))
        facts = {"learned for": learned.model, **learned.facts}
        plan = Plan(program=PROGRAM, start=learned.start)
        planned = Planned(plan=plan, weights=learned.weights, facts=facts)
        plans = (_packed(planned, {PROGRAM}),)
        return Contents(kind="program", source=source, plans=plans, files={PROGRAM: source})
    plans = (_packed(Planned(plan=_plan_in(source))),)
    return Contents(kind="plan", source=source, plans=plans)


def _plan_in(file: Path) -> Plan:
    body = read_json(file) if file.suffix == ".json" else None
    require(
        not (isinstance(body, dict) and body.keys() & {"method", "every", "depth"}),
        f"{file} is a plan for `hasten edit`; the hub takes plans for sampling alone.",
    )
    return Plan.read(file)


def _tuned(folder: Path, within: str) -> Planned:
    """The plan in a folder of ``hasten tune``."""
    report = read_json(folder / REPORT) if (folder / REPORT).is_file() else {}
    require(isinstance(report, dict), f"{folder / REPORT} is damaged; tune again.")
    return _packed(
        Planned(
            plan=_plan_in(folder / PLAN),
            name=f"{within}{PLAN}",
            weights=_tuned_weights(folder / JOURNAL),
            report=report,
        )
    )


def _tuned_weights(journal: Path) -> str:
    """The sha256 of the weights that a journal's measurements are of; "" where it does not say."""
    if not journal.is_file():
        return ""
    with journal.open(encoding="utf-8") as lines:
        first = lines.readline()
    try:
        return str(json.loads(first)["subject"]["sha256"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{journal} is damaged; tune again, or remove it.") from error


def _packed(planned: Planned, there: set[str] | None = None) -> Planned:
    """``planned`` with the files it names beside it, under the names they have in the repo."""
    sources: dict[str, Path] = {}

    def pack(option: str, name: str) -> str:
        if name in (there or ()):
            return name
        path = Path(name).expanduser()
        if option == "source" and not path.exists():
            return name  # a hub id
        require(
            path.exists(),
            f"the plan names {name!r}, which is not here; push from where the plan works.",
        )
        inside = f"{FILES}/{path.name}"
        clash = any(other != file for other, file in _files_in(path, inside) if other in sources)
        require(not clash, f"the plan names two files {path.name!r}; rename one of them.")
        sources.update(_files_in(path, inside))
        return inside

    plan = renamed(planned.plan, pack)
    return dataclasses.replace(planned, plan=plan, sources=sources)


def _files_in(path: Path, inside: str) -> Iterator[tuple[str, Path]]:
    """The files that ``path`` is or holds, by their names in the repo.

    Raises:
        UserError: a file that holds no plain data, or has a name that no repo takes.
    """
    found = [path] if path.is_file() else sorted(one for one in path.rglob("*") if one.is_file())
    for file in found:
        name = inside if path.is_file() else f"{inside}/{file.relative_to(path).as_posix()}"
        if is_data(name) or path.is_file():
            require(
                is_data(name) and INSIDE.fullmatch(name) is not None,
                f"{file} cannot go to the hub: hasten shares safetensors, JSON, YAML and Markdown, "
                "under names of letters, digits, and . _ = + - alone.",
            )
            yield name, file


def _model(source: Path) -> Contents:
    """A model, a student or a LoRA."""
    facts = read_json(source / FACTS)
    require(isinstance(facts, dict), f"{source / FACTS} holds no JSON object; copy it again.")
    for fields in plans_of(facts.get("plans", [])):
        named = files_of(Plan.of(fields))
        require(
            not named,
            f"{source / FACTS}: a plan names {', '.join(named)}, which others do not have; push "
            "that plan by itself.",
        )
    whole = (source / MANIFEST).is_file()
    names = list(verify(source, cache_root(source))["files"]) if whole else _below(source)
    taken = {
        name: source / name
        for name in names
        if is_data(name) and INSIDE.fullmatch(name) is not None and name not in (CARD, MANIFEST)
    }
    left = tuple(name for name in names if name not in taken and name not in (CARD, MANIFEST))
    lora = (source / LORA).is_file()
    kind = "lora" if lora else "student" if facts.get("teacher") else "model"
    require(
        lora or (source / INDEX).is_file() or bool(facts.get("teacher")),
        f"{source} holds no {INDEX}; it is no model that can be loaded again.",
    )
    return Contents(kind=kind, source=source, files=taken, facts=facts, left_out=left)


def _below(folder: Path) -> list[str]:
    """The files of ``folder``; links that lead out of it are none."""
    root = cache_root(folder)
    every = (path for path in folder.rglob("*") if path.is_file())
    files = sorted(path for path in every if path.resolve().is_relative_to(root))
    return [path.relative_to(folder).as_posix() for path in files]


def _copy(file: Path, to: Path) -> None:
    to.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(file, to)
