"""The models that come with hasten, and names that stand for a folder."""

from __future__ import annotations

from pathlib import Path

from hasten.adapters.folder import INDEX
from hasten.adapters.hub import place
from hasten.core.artifact import ASSETS, BUILTIN, HUB
from hasten.core.errors import UserError, nearest


def builtins() -> str:
    """Their names, for a message."""
    names = sorted(path.parent.name for path in ASSETS.glob(f"*/{INDEX}"))
    return ", ".join(f"{BUILTIN}{name}" for name in names) or "none in this installation"


def builtin_folder(text: str) -> Path:
    """The folder of ``builtin:NAME``.

    Raises:
        UserError: there is no such model.
    """
    names = [path.parent.name for path in ASSETS.glob(f"*/{INDEX}")]
    name = text.removeprefix(BUILTIN)
    if name not in names:
        allowed = nearest(name, names) if names else "There are none in this installation."
        raise UserError(f"model {text!r} is unknown. {allowed}")
    return ASSETS / name


def named_folder(text: str) -> Path | None:
    """The folder that ``builtin:NAME`` or ``hub:owner/name[@revision]`` stands for, downloaded
    where it is not here yet; None for any other text.

    Raises:
        UserError: there is no such model.
    """
    if text.startswith(HUB):
        return place(text)
    return builtin_folder(text) if text.startswith(BUILTIN) else None
