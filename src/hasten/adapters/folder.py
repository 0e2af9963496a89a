"""A model as a diffusers folder: what stock diffusers loads, and ``hasten.json`` beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from hasten.core.codec import codecs
from hasten.core.files import new_folder
from hasten.core.level import Discrete
from hasten.core.model import Model
from hasten.core.prediction import predictions

FACTS = "hasten.json"


def save_folder(model: Model, target: Path, card: str = "") -> None:
    """Write ``model`` as a diffusers folder with ``hasten.json``, a card and a sha256 manifest.

    The folder appears whole or not at all; stock diffusers loads its network and scheduler.
    """
    import diffusers

    module: Any = model.net.module
    component = "transformer" if "Transformer" in type(module).__name__ else "unet"
    pipeline = "DiTPipeline" if component == "transformer" else "DDPMPipeline"
    scheduler = stock_scheduler(model)
    with new_folder(target) as folder:
        module.save_pretrained(str(folder / component))
        scheduler.save_pretrained(str(folder / "scheduler"))
        index = {
            "_class_name": pipeline,
            "_diffusers_version": diffusers.__version__,
            component: ["diffusers", type(module).__name__],
            "scheduler": ["diffusers", type(scheduler).__name__],
        }
        (folder / "model_index.json").write_text(json.dumps(index, indent=1) + "\n")
        (folder / FACTS).write_text(json.dumps(facts(model), indent=1) + "\n")
        if card:
            (folder / "README.md").write_text(card, encoding="utf-8")


def facts(model: Model) -> dict[str, Any]:
    """What ``hasten.json`` holds: everything about a model that diffusers' files do not say."""
    path = model.path.config()
    return {
        "path": path if path["name"] != "discrete" else "scheduler",
        "prediction": predictions.text(model.prediction),
        "codec": codecs.text(model.codec),
        "shape": list(model.shape),
        "labels": model.labels,
        "null_label": model.null_label,
        "learned_variance": model.learned_variance,
    }


def stock_scheduler(model: Model) -> Any:
    """The diffusers scheduler that comes nearest to the model's path, for stock diffusers."""
    import diffusers

    if isinstance(model.path, Discrete):
        kinds = {"epsilon": "epsilon", "v": "v_prediction", "x0": "sample"}
        table = torch.tensor(model.path.alphas_cumprod, dtype=torch.float64)
        betas = 1 - table / torch.cat([table.new_ones(1), table[:-1]])
        known = diffusers.DDPMScheduler(num_train_timesteps=len(table), clip_sample=False)
        same = torch.allclose(known.alphas_cumprod.double(), table, rtol=1e-4, atol=1e-7)
        return diffusers.DDPMScheduler(
            num_train_timesteps=len(table),
            trained_betas=None if same else betas.tolist(),
            prediction_type=kinds.get(model.prediction.part_name, "epsilon"),
            clip_sample=False,
        )
    if model.path.part_name == "edm":
        return diffusers.EDMEulerScheduler(
            sigma_min=model.path.low,
            sigma_max=model.path.noisy,
            sigma_data=getattr(model.prediction, "sigma_data", 0.5),
        )
    if model.path.part_name == "flow":
        return diffusers.FlowMatchEulerDiscreteScheduler(shift=getattr(model.path, "shift", 1.0))
    return diffusers.DDPMScheduler(clip_sample=False)
