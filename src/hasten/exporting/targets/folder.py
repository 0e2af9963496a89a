"""A diffusers folder with the plan in it: for hasten and stock diffusers elsewhere."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch

from hasten.adapters.folder import save_folder
from hasten.adapters.load import load
from hasten.exporting.bundle import Bundle
from hasten.exporting.target import Call, Target, targets

MODEL = "model"


@targets.add("folder")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Folder(Target):
    """``model/``, which samples by its own plan; a learned program goes along."""

    def write(self, bundle: Bundle, folder: Path) -> None:
        plan = bundle.first.plan.chosen()
        plan.pop("student", None)
        if bundle.first.plan.learned is not None:
            bundle.first.plan.learned.write(folder / "program.json")
            plan["program"] = "program.json"
        plans = () if "program" in plan else (plan,)
        save_folder(dataclasses.replace(bundle.model, plans=plans), folder / MODEL)

    def network(self, bundle: Bundle, folder: Path) -> Call:
        model = load(folder / MODEL)

        @torch.inference_mode()
        def call(x: torch.Tensor, t: float, label: int | None) -> torch.Tensor:
            cond = None if model.labels is None else torch.tensor([label or 0])
            return model.net(x, torch.tensor([t]), cond)

        return call
