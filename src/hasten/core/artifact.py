"""What was learned for a model: files that a plan names, tied to the weights they were made for."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch

from hasten.core.errors import UserError, require
from hasten.core.files import read_json
from hasten.core.model import Model

FACTS = "hasten.json"
ASSETS = Path(__file__).parents[1] / "assets"
BUILTIN = "builtin:"


def located(field: str, name: str) -> Path:
    """The file a plan's ``field`` means by ``name``: a path, or ``builtin:MODEL/FILE``.

    Raises:
        UserError: there is no such file.
    """
    file = ASSETS / name.removeprefix(BUILTIN) if name.startswith(BUILTIN) else Path(name)
    inside = not name.startswith(BUILTIN) or file.resolve().is_relative_to(ASSETS)
    require(
        inside and file.is_file(),
        f"{field} is {name!r}, which is no file; give the path of one that `hasten learn` wrote.",
    )
    return file


def located_folder(field: str, name: str) -> Path:
    """The model folder a plan's ``field`` means by ``name``: a path, or ``builtin:NAME``.

    Raises:
        UserError: there is no such folder.
    """
    folder = ASSETS / name.removeprefix(BUILTIN) if name.startswith(BUILTIN) else Path(name)
    inside = not name.startswith(BUILTIN) or folder.resolve().parent == ASSETS.resolve()
    require(
        inside and (folder / FACTS).is_file(),
        f"{field} is {name!r}, which is no folder with {FACTS}; give one that "
        "`hasten learn student` wrote.",
    )
    return folder


def student_plans(name: str) -> tuple[Mapping[str, object], ...]:
    """The fields of the plans that the student ``name`` brings, the best first.

    Raises:
        UserError: there is no such student.
    """
    body = read_json(located_folder("plan field 'student'", name) / FACTS)
    plans = body.get("plans") if isinstance(body, dict) else None
    plans = plans if isinstance(plans, list) else []
    require(
        bool(plans) and all(isinstance(plan, dict) for plan in plans) and bool(body.get("teacher")),
        f"plan field 'student' is {name!r}, whose {FACTS} names no plans and no teacher; give a "
        "folder that `hasten learn student` wrote.",
    )
    return tuple(plans)


def digest(model: Model) -> str:
    """The sha256 that stands for the weights of ``model``, from memory or from a file."""
    if model.sha256:
        return model.sha256
    total = hashlib.sha256()
    for name, value in sorted(model.net.state_dict().items()):
        total.update(name.encode())
        total.update(value.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


def require_weights(field: str, sha256: str, model: Model, other_weights: bool) -> None:
    """Refuse what was learned for other weights than those of ``model``, unless told.

    Raises:
        UserError: they differ and ``other_weights`` is False.
    """
    if other_weights or digest(model) == sha256:
        return
    raise UserError(
        f"{field} was learned for other weights (sha256 {sha256[:12]}...) than those of "
        f"{model.name!r} ({digest(model)[:12]}...); learn it again for these, or set "
        "other_weights=true."
    )
