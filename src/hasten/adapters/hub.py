"""What lies on the Hugging Face hub, by the name ``hub:owner/name[@revision][/FILE]``.

Only files that hasten's manifest lists come down, of kinds that hold data and no code, and each
only with the sha256 it has there. A name stands for one commit as long as a process runs.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Iterable
from pathlib import Path

from hasten.adapters.hub_errors import asking_hub
from hasten.adapters.plan_files import renamed
from hasten.core.artifact import HUB
from hasten.core.errors import UserError, require
from hasten.core.files import MANIFEST, JsonObject, cache_root, read_json, verify
from hasten.core.plan import Plan

REPO = re.compile(r"\w[\w.-]*/\w[\w.-]*")
NAME = re.compile(rf"{HUB}({REPO.pattern})(?:@(\w[\w.-]*))?(?:/(.+))?")
COMMIT = re.compile(r"[0-9a-f]{40}")
INSIDE = re.compile(r"\w[\w.+=-]*(?:/\w[\w.+=-]*)*")  # no .., no hidden file, no drive, no glob
DATA = (".safetensors", ".json", ".yaml", ".yml", ".md")
TEXTS = ("prompts.txt", "merges.txt", "LICENSE")
PLAN, FILES = "plan.json", "files"  # in a repo: the plan, and the folder of the files it names
OURS = "hasten"  # what the manifest says of the repo, beside its files


@dataclasses.dataclass(frozen=True, kw_only=True)
class Snapshot:
    """A repo at one commit, in the local cache, as its manifest says it is."""

    repo: str
    commit: str
    folder: Path
    manifest: JsonObject

    @property
    def files(self) -> list[str]:
        return sorted(self.manifest["files"])

    @property
    def kind(self) -> str:
        """What was pushed: plan, program, tuned, plans, model, student or lora."""
        ours = self.manifest.get(OURS)
        return str(ours.get("kind", "model")) if isinstance(ours, dict) else "model"

    @property
    def plans(self) -> dict[str, str]:
        """The plan files, and the sha256 of the weights each is for ("" for any)."""
        ours = self.manifest.get(OURS)
        plans = ours.get("plans", {}) if isinstance(ours, dict) else {}
        require(
            isinstance(plans, dict) and set(plans) <= set(self.files),
            f"hub repo {self.repo!r}: {MANIFEST} names plans that it does not list; push it again.",
        )
        return {str(name): str(weights) for name, weights in plans.items()}

    def plan(self, name: str, within: str) -> Plan:
        """The plan in the file ``name``, what it names in the repo named as ``within/FILE``."""

        def place(option: str, file: str) -> str:
            listed = file in self.files or any(one.startswith(f"{file}/") for one in self.files)
            if option == "source" and not file.startswith(f"{FILES}/") and REPO.fullmatch(file):
                return file  # a hub id, as lever tiny-decoder takes it
            require(
                listed,
                f"hub repo {self.repo!r}: {name} names {file!r}, which {MANIFEST} does not list; "
                "hasten uses no such file. Push the plan again with it.",
            )
            return f"{within}/{file}"

        body = read_json(self.folder / name)
        require(isinstance(body, dict), f"hub repo {self.repo!r}: {name} holds no plan.")
        return renamed(Plan.of(body), place)


def is_data(name: str) -> bool:
    """Whether a file of this name holds data and no code."""
    return name.endswith(DATA) or Path(name).name in TEXTS


def repo_of(text: str) -> str:
    """``owner/name``, with or without ``hub:`` before it.

    Raises:
        UserError: it is no such name.
    """
    name = text.removeprefix(HUB)
    require(
        REPO.fullmatch(name) is not None and ".." not in name,
        f"hub repo is {text!r}; it takes owner/name.",
    )
    return name


def place(name: str) -> Path:
    """The file or folder that ``hub:owner/name[@revision][/FILE]`` stands for, in the local cache.

    Raises:
        UserError: it cannot be had, or is not as its manifest says.
    """
    repo, revision, file = _split(name)
    found = _kept(repo, revision)
    if not file:
        return found.folder
    inside = file in found.files or any(other.startswith(f"{file}/") for other in found.files)
    require(inside, f"{name} is no file of that repo; it has {', '.join(found.files)}.")
    return found.folder / file


def read_plan(name: str) -> Plan:
    """The plan that ``hub:owner/name[@revision][/FILE]`` stands for; ``plan.json`` by default. The
    files of the repo that it names are named with the commit, so that they stay what they are.

    Raises:
        UserError: there is no such plan.
    """
    repo, revision, file = _split(name)
    found, chosen = _kept(repo, revision), file or PLAN
    if chosen not in found.files:
        lever = f"use levers=student(folder='{HUB}{repo}')"
        have = ", ".join(f"{HUB}{repo}/{plan}" for plan in found.plans)
        mend = f"name one of its plans: {have}" if have else f"it is a {found.kind}; {lever}"
        raise UserError(f"{name} holds no {chosen}; {mend}.")
    return found.plan(chosen, f"{HUB}{repo}@{found.commit}")


def snapshot(repo: str, revision: str | None = None) -> Snapshot:
    """``repo`` at ``revision`` (a branch, tag or commit; the main branch by default), downloaded
    where it is not in the local cache, and checked against its manifest.

    Raises:
        UserError: it cannot be had, lists a file that is no data, or is damaged.
    """
    from huggingface_hub import HfApi, constants, hf_hub_download, snapshot_download
    from huggingface_hub.errors import RemoteEntryNotFoundError

    offline, asked = constants.HF_HUB_OFFLINE, revision or constants.DEFAULT_REVISION
    with asking_hub(repo, revision):
        if not offline and not COMMIT.fullmatch(asked):
            # A file alone would be taken from the cache, in silence, where the hub is out of reach.
            seconds = constants.HF_HUB_ETAG_TIMEOUT
            HfApi().model_info(repo, revision=revision, timeout=seconds)
        try:
            listing = Path(
                hf_hub_download(repo, MANIFEST, revision=asked, local_files_only=offline)
            )
        except RemoteEntryNotFoundError as error:
            raise UserError(
                f"hub repo {repo!r} holds no {MANIFEST}, so nothing in it can be checked; it was "
                f"not pushed by hasten. Load a model with hasten.load({repo!r})."
            ) from error
        commit, names = listing.parent.name, _listed(read_json(listing), repo)
        exactly = [MANIFEST, *names]
        folder = Path(
            snapshot_download(
                repo, revision=commit, allow_patterns=exactly, local_files_only=offline
            )
        )
        manifest = verify(folder, cache_root(folder))
    return Snapshot(repo=repo, commit=commit, folder=folder, manifest=manifest)


_kept = functools.lru_cache(maxsize=64)(snapshot)


def _split(name: str) -> tuple[str, str | None, str | None]:
    match = NAME.fullmatch(name)
    if match is None or ".." in name:
        raise UserError(
            f"{name!r} is no name on the hub; write hub:owner/name, or hub:owner/name@revision."
        )
    return match[1], match[2], match[3]


def _listed(manifest: object, repo: str) -> list[str]:
    """The files that a manifest lists, none of which can leave the folder or hold code."""
    files = manifest.get("files") if isinstance(manifest, dict) else None
    require(
        isinstance(files, dict), f"hub repo {repo!r}: {MANIFEST} lists no files; push it again."
    )
    assert isinstance(files, dict)
    _require_data(files, f"hub repo {repo!r}: {MANIFEST}")
    return list(files)


def _require_data(names: Iterable[str], where: str) -> None:
    for name in names:
        require(
            INSIDE.fullmatch(name) is not None,
            f"{where} lists {name!r}, which is no plain path inside the repo; hasten takes none "
            "of it.",
        )
        require(
            is_data(name),
            f"{where} lists {name!r}; hasten takes {', '.join(DATA)} alone, and none of this "
            "repo. Push it again without that file.",
        )
