"""``hasten push``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from hasten.cli.options import Flag, Parameter


def push(
    what: Path,
    repo: str,
    *,
    base_model: str | None = None,
    private: Flag = False,
    revision: str | None = None,
    message: str | None = None,
    dry_run: Annotated[bool, Parameter(negative="")] = False,
    out: Path | None = None,
) -> None:
    """Share a plan, a learned program, a student, a model, or what `hasten tune` wrote, on the
    Hugging Face hub, with a manifest and a card. It takes a token: `hf auth login`, or HF_TOKEN.

    Args:
        what: a plan, a learned program, or a folder that hasten wrote.
        repo: owner/name; it is made where it does not exist.
        base_model: the hub's name of the model it is for.
        private: make a new repo private.
        revision: the branch to push to, made where it does not exist.
        message: of the commit.
        dry_run: upload nothing; write the folder that would go.
        out: with --dry-run, the folder to write; the name of the repo by default.
    """
    from hasten.adapters.hub_exchange import Upload
    from hasten.adapters.hub_exchange import push as run
    from hasten.core.errors import require

    require(dry_run or out is None, "out is the folder of --dry-run; add that, or drop --out.")
    folder = (out or Path(repo.rpartition("/")[2])) if dry_run else None
    upload = Upload(private=private, revision=revision, message=message)
    pushed = run(what, repo, base_model=base_model, upload=upload, dry_run=folder)
    if pushed.left_out:
        print(f"left out, as no data that hasten shares: {', '.join(pushed.left_out)}")
    what_went = f"{pushed.kind}: {', '.join(pushed.files)}, manifest.json"
    if folder is not None:
        print(f"wrote {folder}, and uploaded nothing; {what_went}")
        return
    print(f"pushed hub:{pushed.repo}@{pushed.commit}; {what_went}")
