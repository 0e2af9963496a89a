"""A diffusers folder with the plan in it: for hasten and stock diffusers elsewhere."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import torch

from hasten.adapters.folder import save_folder
from hasten.adapters.load import load
from hasten.core.artifact import BUILTIN, located
from hasten.core.errors import require
from hasten.core.family import inner
from hasten.core.lever import Stage
from hasten.core.model import Model
from hasten.core.parts import parsed_levers
from hasten.exporting.bundle import NET, Bundle
from hasten.exporting.target import Call, Condition, Target, arrays, targets
from hasten.starts.files import FIELD, FromFile

MODEL = "model"


@targets.add("folder")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Folder(Target):
    """``model/``, which samples by its own plan; a learned program and a start's file go along, and
    a plan has to name those."""

    def check(self, model: Model) -> None:
        super().check(model)
        module = inner(model.net)
        require(
            hasattr(module, "save_pretrained"),
            f"{type(module).__name__} is no diffusers network, and a diffusers folder holds one; "
            "export to onnx or openvino.",
        )

    def write(self, bundle: Bundle, folder: Path) -> None:
        changing = [
            lever.part_name for lever in parsed_levers(bundle.levers) if lever.stage != Stage.MODEL
        ]
        require(
            not changing,
            "a diffusers folder holds the network's own weights; drop "
            f"{' and '.join(changing)} from the plan, and name it in plans of the folder that is "
            "written.",
        )
        plan = bundle.first.plan.chosen()
        plans: tuple[dict[str, object], ...] = (plan,)  # none that names a file beside the model
        parts = bundle.first.resolved.parts
        if parts.learned is not None:
            parts.learned.write(folder / "program.json")
            plans = ()
        start = parts.start
        if isinstance(start, FromFile) and not start.file.startswith(BUILTIN):
            shutil.copy(located(FIELD, start.file), folder / "start.safetensors")
            plans = ()
        save_folder(dataclasses.replace(bundle.model, plans=plans), folder / MODEL)

    def network(self, bundle: Bundle, folder: Path, name: str = NET) -> Call:
        model = load(folder / MODEL) if name == NET else bundle.networks()[name]

        @torch.inference_mode()
        def call(x: torch.Tensor, t: float, given: Condition) -> torch.Tensor:
            label = torch.from_numpy(arrays(x, t, given)[2])
            return model.net(x, torch.tensor([t]), None if model.labels is None else label)

        return call
