"""The models that come with hasten."""

from __future__ import annotations

from pathlib import Path

from hasten.adapters.folder import INDEX
from hasten.core.artifact import ASSETS, BUILTIN
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
