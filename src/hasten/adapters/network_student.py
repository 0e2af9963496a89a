"""A whole network that stands in for that of a pipeline: its weights in diffusers' format and what
hasten knows of it. Prompts, autoencoder and all the rest stay the pipeline's own."""

from __future__ import annotations

import copy
import json
from pathlib import Path

from hasten.adapters.folder import facts, refusing
from hasten.adapters.lora import student_in
from hasten.adapters.untyped import Net
from hasten.core.artifact import FACTS
from hasten.core.family import inner
from hasten.core.files import new_folder
from hasten.core.model import Model

PART = "network"
CARD = """The network alone: prompts, text encoder and autoencoder are the teacher's.

```python
import hasten

model = hasten.load("the/teacher", prompts=["a cat"])
pictures = hasten.build(model, "levers=student(folder='this/folder')").sample(4, condition=0)
```

On a live pipeline: `hasten.apply(pipe, "levers=student(folder='this/folder')")`.
"""
"""How to use it, for its model card."""


def save_network(student: Model, target: Path, card: str) -> None:
    """Write the network of ``student`` with a card and its plans; whole or not at all."""
    with new_folder(target) as folder:
        net: Net = inner(student.net)
        net.save_pretrained(str(folder / PART))
        known = {**facts(student), PART: True}
        (folder / FACTS).write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
        (folder / "README.md").write_text(card, encoding="utf-8")


def with_network(teacher: Model, folder: Path) -> Model:
    """The student whose network lies in ``folder``, called as that of ``teacher`` is.

    Raises:
        UserError: the weights do not fit, or are damaged.
    """
    net = copy.deepcopy(teacher.net)
    mine: Net = inner(net)
    with refusing(f"{folder / PART} does not fit {teacher.name!r}", "distil it again."):
        other = type(mine).from_pretrained(str(folder / PART), use_safetensors=True)
        mine.load_state_dict(other.state_dict())
    return student_in(folder, teacher, net)
