"""push: plans, programs, students and models to the hub. pull: a repo to a folder, checked."""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
from pathlib import Path

from hasten.adapters.hub import OURS, Snapshot, repo_of, snapshot
from hasten.adapters.hub_card import card_of
from hasten.adapters.hub_contents import CARD, Contents, contents_of
from hasten.adapters.hub_errors import LOGIN, asking_hub
from hasten.core.artifact import FACTS, HUB, digest
from hasten.core.errors import require
from hasten.core.files import MANIFEST, new_folder, read_json, require_replaceable
from hasten.core.model import Model

FROM = "hub"  # what the manifest of a pulled folder says of where it came from


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pushed:
    """What went to the hub: ``commit`` is "" where nothing was uploaded."""

    repo: str
    kind: str
    files: tuple[str, ...]
    left_out: tuple[str, ...]
    commit: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Upload:
    """How a repo is written.

    Attributes:
        private: whether a new repo is; revision: the branch, made where it does not exist.
        message: of the commit.
    """

    private: bool = False
    revision: str | None = None
    message: str | None = None


def push(
    what: str | Path,
    repo: str,
    *,
    base_model: str | None = None,
    upload: Upload | None = None,
    dry_run: str | Path | None = None,
) -> Pushed:
    """Put ``what`` (a plan, a learned program, a student, LoRA or model folder, the folder of
    `hasten tune`, or a folder of such folders) into the hub's ``repo`` with a manifest and a card.

    Args:
        base_model: the hub's name of the model it is for.
        dry_run: a folder to write in place of the repo; nothing is uploaded.

    Raises:
        UserError: it cannot be shared, or the hub refuses it.
    """
    repo = repo_of(repo)
    base = None if base_model is None else repo_of(base_model)
    contents = contents_of(what)
    if dry_run is not None:
        return _written(contents, repo, base, Path(dry_run))
    with tempfile.TemporaryDirectory(prefix="hasten-push-") as scratch:
        folder = Path(scratch) / "repo"
        pushed = _written(contents, repo, base, folder)
        commit = _uploaded(folder, repo, upload or Upload(), contents.kind)
    return dataclasses.replace(pushed, commit=commit)


def _written(contents: Contents, repo: str, base: str | None, target: Path) -> Pushed:
    """``target`` as the repo will be."""
    with new_folder(target, contents.manifest) as folder:
        contents.write(folder)
        (folder / CARD).write_text(card_of(contents, repo, base), encoding="utf-8")
    files = tuple(read_json(target / MANIFEST)["files"])
    return Pushed(repo=repo, kind=contents.kind, files=files, left_out=contents.left_out)


def _uploaded(folder: Path, repo: str, upload: Upload, kind: str) -> str:
    """The commit that holds the files of ``folder``; all of them in one, or none."""
    from huggingface_hub import CommitOperationAdd, HfApi, constants, get_token

    offline = constants.HF_HUB_OFFLINE
    require(not offline, "HF_HUB_OFFLINE is set, so nothing can be pushed; unset it.")
    require(get_token() is not None, f"hub repo {repo!r} takes a token to push to; {LOGIN}.")
    api, branch = HfApi(), upload.revision
    with asking_hub(repo, branch):
        api.create_repo(repo, private=upload.private or None, exist_ok=True)
        if branch is not None:
            api.create_branch(repo, branch=branch, exist_ok=True)
        names = sorted(path for path in folder.rglob("*") if path.is_file())
        added = [
            CommitOperationAdd(
                path_in_repo=path.relative_to(folder).as_posix(), path_or_fileobj=path
            )
            for path in names
        ]
        message = upload.message or f"{kind.capitalize()} from hasten"
        done = api.create_commit(repo, added, commit_message=message, revision=branch)
    return done.oid


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pulled:
    """A repo that lies in a folder: at which ``commit``, and the plan files that it holds."""

    repo: str
    commit: str
    kind: str
    plans: tuple[str, ...]


def pull(
    repo: str, out: str | Path, *, revision: str | None = None, model: Model | None = None
) -> Pulled:
    """Put what the hub's ``repo`` holds into the folder ``out``. Its manifest names the commit, and
    its plans name the files of the folder.

    Args:
        revision: a branch, tag or commit; the main branch by default.
        model: take only the plans that were made for its weights.

    Raises:
        UserError: it cannot be had, is damaged, holds more than data, or nothing for ``model``.
    """
    name, _, pinned = repo.removeprefix(HUB).partition("@")
    out = require_replaceable(out)
    found = snapshot(repo_of(name), revision or pinned or None)
    plans = list(found.plans) if model is None else _fitting(found, model)
    others = set(found.plans) - set(plans)
    left = {other.rpartition("/")[0] for other in others if "/" in other}
    origin = {"repo": found.repo, "revision": found.commit}
    facts = {OURS: {**found.manifest.get(OURS, {}), "plans": {p: found.plans[p] for p in plans}}}
    with new_folder(out, {**facts, FROM: origin}) as folder:
        for file in found.files:
            if file not in others and file.rpartition("/")[0] not in left:
                target = folder / file
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(found.folder / file, target)
        for plan in plans:
            found.plan(plan, str(out.resolve())).write(folder / plan)
    return Pulled(repo=found.repo, commit=found.commit, kind=found.kind, plans=tuple(plans))


def _fitting(found: Snapshot, model: Model) -> list[str]:
    """The plans of ``found`` that were made for the weights of ``model``."""
    own = digest(model)
    weights = {**found.plans}
    if not weights and FACTS in found.files:
        weights = {FACTS: str(read_json(found.folder / FACTS).get("teacher", ""))}
    fitting = [name for name, made_for in weights.items() if made_for == own]
    said = ", ".join(f"{name}: {made_for[:12] or 'any'}" for name, made_for in weights.items())
    require(
        bool(fitting),
        f"hub repo {found.repo!r} holds nothing for the weights of {model.name!r} (sha256 "
        f"{own[:12]}...); it was made for {said or 'none'}. Pull it without --for to have it all.",
    )
    return [name for name in fitting if name in found.plans]
