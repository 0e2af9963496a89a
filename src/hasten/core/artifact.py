"""What was learned for a model: files that a plan names, tied to the weights they were made for."""

from __future__ import annotations

import hashlib
import importlib
from pathlib import Path

import torch

from hasten.core.errors import UserError, require
from hasten.core.family import inner
from hasten.core.model import Model

FACTS = "hasten.json"
ASSETS = Path(__file__).parents[1] / "assets"
BUILTIN = "builtin:"
HUB = "hub:"


def located(field: str, name: str) -> Path:
    """The file a plan's ``field`` means by ``name``: a path, ``builtin:MODEL/FILE``, or
    ``hub:owner/name/FILE``, which is downloaded where it is not here yet.

    Raises:
        UserError: there is no such file.
    """
    if name.startswith(HUB):
        name = str(on_hub("place", name))
    file = ASSETS / name.removeprefix(BUILTIN) if name.startswith(BUILTIN) else Path(name)
    inside = not name.startswith(BUILTIN) or file.resolve().is_relative_to(ASSETS)
    require(
        inside and file.is_file(),
        f"{field} is {name!r}, which is no file; give the path of one that `hasten learn` wrote.",
    )
    return file


def located_folder(field: str, name: str) -> Path:
    """The model folder a plan's ``field`` means by ``name``: a path, ``builtin:NAME``, or
    ``hub:owner/name``, which is downloaded where it is not here yet.

    Raises:
        UserError: there is no such folder.
    """
    if name.startswith(HUB):
        name = str(on_hub("place", name))
    folder = ASSETS / name.removeprefix(BUILTIN) if name.startswith(BUILTIN) else Path(name)
    inside = not name.startswith(BUILTIN) or folder.resolve().parent == ASSETS.resolve()
    require(
        inside and (folder / FACTS).is_file(),
        f"{field} is {name!r}, which is no folder with {FACTS}; give one that "
        "`hasten learn student` wrote.",
    )
    return folder


def on_hub(verb: str, name: str) -> object:
    """``verb`` (``place`` or ``read_plan``) of :mod:`hasten.adapters.hub` for ``name``."""
    # Found by name, as the parts of a plan are: the core itself knows no network.
    return getattr(importlib.import_module("hasten.adapters.hub"), verb)(name)


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
