"""``hasten pull``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from hasten.cli.options import NOTHING, Parameter, Request, model_of


def pull(
    repo: str,
    *,
    out: Path | None = None,
    revision: str | None = None,
    for_: Annotated[str | None, Parameter(name="--for")] = None,
    request: Request = NOTHING,
) -> None:
    """Download what `hasten push` has put on the Hugging Face hub: safetensors, JSON, YAML and
    Markdown alone, each file checked against the manifest.

    Args:
        repo: owner/name, or owner/name@revision.
        out: the folder to write; the name of the repo by default.
        revision: a branch, tag or commit; the main branch by default.
        for_: a model (builtin:NAME, a folder, or a hub id); only plans that were made for its
            weights are taken.
    """
    from hasten.adapters.hub_exchange import pull as run

    model = None if for_ is None else model_of(for_, request)
    folder = out or Path(repo.partition("@")[0].rpartition("/")[2])
    pulled = run(repo, folder, revision=revision, model=model)
    print(f"wrote {folder}: {pulled.kind} of hub:{pulled.repo}@{pulled.commit}")
    for plan in pulled.plans:
        print(f"plan: {folder / plan}")
