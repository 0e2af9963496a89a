"""Low-rank students (LoRA, Hu et al. 2106.09685): a small file instead of a network.

Written as diffusers writes them, so ``pipe.load_lora_weights(folder)`` loads one too.
"""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from hasten.adapters.block_span import STACKS
from hasten.adapters.folder import facts, read_object, refusing
from hasten.adapters.untyped import Net
from hasten.core.artifact import FACTS
from hasten.core.errors import UserError, require
from hasten.core.family import family_of
from hasten.core.files import new_folder
from hasten.core.model import Model
from hasten.core.prediction import prediction

WEIGHTS = "pytorch_lora_weights.safetensors"
NAME = "default"
BLOCKS = (*STACKS, "down_blocks", "mid_block", "up_blocks")
LEFT = ("norm", "motion_modules")  # what normalises, and what is called in a way peft does not know
CARD = """Low-rank weights in diffusers' own format: `pipe.load_lora_weights("this/folder")`,
with a consistency scheduler such as `LCMScheduler` and guidance 1; or in hasten

```python
import hasten

model = hasten.load("the/teacher", prompts=["a cat"])
pictures = hasten.build(model, "levers=student(folder='this/folder')").sample(4, condition=0)
```
"""
"""How to use such weights, for their model card."""


def inner(net: torch.nn.Module) -> Net:
    """The diffusers network in the wrappers around it.

    Raises:
        UserError: it takes no low-rank weights.
    """
    module: Net = net
    while not hasattr(module, "add_adapter") and hasattr(module, "module"):
        module = module.module
    require(
        hasattr(module, "add_adapter"),
        f"lora: {type(module).__name__} takes no low-rank weights in diffusers; set lora to 0, and "
        "the whole network is trained.",
    )
    return module


def _prefix(module: torch.nn.Module) -> str:
    """How the keys of a network's low-rank weights begin in files of diffusers."""
    return "unet" if "UNet" in type(module).__name__ else "transformer"


def _in_blocks(module: torch.nn.Module) -> list[str]:
    """The linear layers of the blocks of a network of any class."""
    return [
        name
        for name, part in module.named_modules()
        if isinstance(part, torch.nn.Linear)
        and name.partition(".")[0] in BLOCKS
        and not any(part in name for part in LEFT)
    ]


def add_lora_(net: torch.nn.Module, rank: int) -> None:
    """Put low-rank weights, the only ones that train, beside those of ``net``."""
    try:
        from peft import LoraConfig
    except ImportError as error:
        raise UserError('low-rank students need: pip install "hasten[train]"') from error
    module = inner(net)
    targets = family_of(net).low_rank or _in_blocks(module)
    net.requires_grad_(False)
    config = LoraConfig(r=rank, lora_alpha=rank, target_modules=list(targets))
    module.add_adapter(config, adapter_name=NAME)


def save_lora(student: Model, target: Path, card: str) -> None:
    """Write the low-rank weights of ``student`` with a card and its plans; whole or not at all."""
    from peft import get_peft_model_state_dict

    module = inner(student.net)
    named = get_peft_model_state_dict(module, adapter_name=NAME)
    # In peft's own names: diffusers' older ones for attention are not read beside these.
    prefix = _prefix(module)
    weights = {f"{prefix}.{key}": value.contiguous().cpu() for key, value in named.items()}
    with new_folder(target) as folder:
        save_file(weights, str(folder / WEIGHTS), {"format": "pt"})
        known = {**facts(student), "lora": True}
        (folder / FACTS).write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
        (folder / "README.md").write_text(card, encoding="utf-8")


def student_in(folder: Path, teacher: Model, net: torch.nn.Module) -> Model:
    """``teacher`` with ``net`` in the place of its network, and what ``folder`` says of it."""
    known = read_object(folder / FACTS)
    return dataclasses.replace(
        teacher,
        net=net.eval().requires_grad_(False),
        prediction=prediction(str(known.get("prediction"))),
        name=folder.name,
        sha256="",
        plans=tuple(known.get("plans", [])),
        teacher=str(known.get("teacher", "")),
        guidance=float(known.get("guidance", 1.0)),
    )


def with_lora(teacher: Model, folder: Path) -> Model:
    """The student whose low-rank weights lie in ``folder``: those of ``teacher`` with them added.

    Raises:
        UserError: the weights do not fit, or are damaged.
    """
    net = copy.deepcopy(teacher.net)
    module = inner(net)
    with refusing(f"{folder / WEIGHTS} does not fit {teacher.name!r}", "distil it again."):
        module.load_lora_adapter(
            str(folder),
            weight_name=WEIGHTS,
            prefix=_prefix(module),
            adapter_name=NAME,
            use_safetensors=True,
        )
        module.fuse_lora(adapter_names=[NAME])
        module.unload_lora()
    return student_in(folder, teacher, net)
