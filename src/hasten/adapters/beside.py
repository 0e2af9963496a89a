"""Another model that a lever names, for a model that is loaded: a student's folder."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from pathlib import Path

import torch

from hasten.adapters.load import load
from hasten.adapters.lora import WEIGHTS as LORA
from hasten.adapters.lora import with_lora
from hasten.adapters.network_student import PART, with_network
from hasten.core.artifact import BUILTIN, FACTS, located_folder
from hasten.core.model import Model


def load_beside(name: str, model: Model) -> Model:
    """The model in the folder ``name`` (or ``builtin:NAME``), on the device of ``model``; low-rank
    weights are applied to the network of ``model``, and a network alone stands in its place.

    Raises:
        UserError: there is no such folder, or it cannot be read.
    """
    folder = located_folder("lever option folder", name)
    if (folder / LORA).is_file():
        return _changed(model, folder, with_lora)
    if (folder / PART).is_dir():
        return _changed(model, folder, with_network)
    stamp = (folder / FACTS).stat().st_mtime_ns
    return _loaded(name, str(folder.resolve()), str(model.device), stamp)


@functools.lru_cache(maxsize=4)
def _loaded(name: str, place: str, device: str, stamp: int) -> Model:
    return load(name if name.startswith(BUILTIN) else place, device=device)


def _changed(model: Model, folder: Path, change: Callable[[Model, Path], Model]) -> Model:
    """``model`` with what lies in ``folder``, kept as long as the model is."""
    known = _CHANGED.setdefault(model.net, {})
    key = str(folder.resolve()), (folder / FACTS).stat().st_mtime_ns
    if key not in known:
        known.clear()
        known[key] = change(model, folder)
    return known[key]


_CHANGED: weakref.WeakKeyDictionary[torch.nn.Module, dict[tuple[str, int], Model]] = (
    weakref.WeakKeyDictionary()
)
