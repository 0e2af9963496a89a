"""Checkpoints that a crash cannot spoil: whole folders with a sha256 manifest, newest kept."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from hasten.core.errors import UserError
from hasten.core.files import JsonObject, new_folder, read_json, verify

Tensors = dict[str, torch.Tensor]


def save(run: Path, step: int, tensors: dict[str, Tensors], facts: dict[str, object]) -> Path:
    """Write ``run/step-N``, a safetensors file for each of ``tensors``; then drop older ones."""
    target = run / f"step-{step:09d}"
    with new_folder(target, {"step": step}) as folder:
        for name, group in tensors.items():
            plain = {key: value.detach().cpu().contiguous() for key, value in group.items()}
            save_file(plain, str(folder / f"{name}.safetensors"))
        (folder / "facts.json").write_text(json.dumps(facts, indent=1), encoding="utf-8")
    for old in _steps(run)[:-2]:
        shutil.rmtree(old, ignore_errors=True)
    return target


def newest(run: Path) -> Path | None:
    """The newest checkpoint of ``run`` whose manifest verifies, or None."""
    for folder in reversed(_steps(run)):
        try:
            verify(folder)
        except UserError:
            continue
        return folder
    return None


def load(folder: Path) -> tuple[dict[str, Tensors], JsonObject]:
    """The tensors and facts of a checkpoint."""
    groups = {path.stem: load_file(str(path)) for path in sorted(folder.glob("*.safetensors"))}
    return groups, read_json(folder / "facts.json")


def _steps(run: Path) -> list[Path]:
    return sorted(path for path in run.glob("step-*") if path.is_dir())


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> Tensors:
    """An optimizer's state, flat: ``{parameter}.{name}``."""
    return {
        f"{index}.{name}": torch.as_tensor(value)
        for index, state in optimizer.state_dict()["state"].items()
        for name, value in state.items()
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Tensors) -> None:
    """Put :func:`optimizer_tensors` back, in the memory format of the parameters: a fused optimizer
    goes through all of them side by side."""
    state: dict[int, dict[str, torch.Tensor]] = {}
    parameters = [value for group in optimizer.param_groups for value in group["params"]]
    for key, value in tensors.items():
        index, name = key.split(".", 1)
        like = parameters[int(index)]
        laid = torch.empty_like(like).copy_(value) if value.shape == like.shape else value
        state.setdefault(int(index), {})[name] = laid
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
