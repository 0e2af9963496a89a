"""What was learned for a model: files that a plan names, tied to the weights they were made for."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch

from hasten.core.errors import UserError, require
from hasten.core.family import inner
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


def digest(model: Model) -> str:
    """The sha256 that stands for the weights of ``model``, from memory or from a file."""
    return model.sha256 or weights_sha256(model.net)


def weights_sha256(net: torch.nn.Module) -> str:
    """The sha256 of the weights of the network inside the wrappers of ``net``: the same for the
    same numbers, in whatever precision they are kept."""
    total = hashlib.sha256()
    for name, value in sorted(inner(net).state_dict().items()):
        total.update(name.encode())
        flat = value.detach().cpu().contiguous().reshape(-1)
        flat = flat.float() if flat.is_floating_point() and flat.dtype != torch.float64 else flat
        total.update(flat.view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


def weights_stamp(net: torch.nn.Module) -> tuple[tuple[int, int], ...]:
    """What differs once a weight of ``net`` was changed, in place or not; takes no time."""
    values = (*net.parameters(), *net.buffers())
    return tuple((id(value), 0 if value.is_inference() else value._version) for value in values)


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
