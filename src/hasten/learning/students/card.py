"""The model card of a student."""

from __future__ import annotations

from pathlib import Path

from hasten.adapters.lora import CARD as LOW_RANK
from hasten.adapters.network_student import CARD as NETWORK
from hasten.core.model import Model
from hasten.core.plan import Plan
from hasten.learning.students.base import PlanFields
from hasten.learning.students.recipe import StudentRecipe

WHOLE = """```python
import hasten

model = hasten.load("this/folder")
pictures = hasten.build(model).sample(16)  # by the first plan of the table
```
"""


def student_card(
    recipe: StudentRecipe,
    teacher: Model,
    plans: list[PlanFields],
    measured: list[dict[str, dict[str, float] | None]],
    seen: int,
) -> str:
    """What it is, how it was made, what it gives, how to use it; ``seen`` pictures made it."""
    conditional = "class-conditional" if teacher.labels else "unconditional"
    rows = ""
    for number, fields in enumerate(plans):
        quality = measured[number] if number < len(measured) else {}
        fd, recall = quality.get("fd"), quality.get("recall")
        value = "" if fd is None else f"{fd['value']:.2f} ({fd['low']:.2f} to {fd['high']:.2f})"
        diversity = "" if recall is None else f"{recall['value']:.2f}"
        n = "" if fd is None else str(fd["n"])
        met = quality.get("prompt_accuracy")
        accuracy = "" if met is None else f"{met['value']:.1%}"
        rows += f"| `{Plan(**fields)}` | {fields['steps']} | {value} | {diversity} | "
        rows += f"{accuracy} | {n} |\n"
    guided = "" if recipe.scale == 1 else f", guidance {recipe.scale:g}"
    use = LOW_RANK if recipe.lora else NETWORK if teacher.prompts else WHOLE
    begun = f", begun with the student `{Path(recipe.begin).name}`" if recipe.begin else ""
    kind = "A few-step student"
    if recipe.prune:
        kind = f"With at least {recipe.prune:.0%} of the multiply-accumulates pruned, a student"
    rounded = f", its layers rounded to {recipe.bits} (as they were for FD)" if recipe.bits else ""
    source = f"; data `{recipe.data.rpartition('/')[2]}`" if recipe.data else ""
    return f"""---
library_name: diffusers
license: apache-2.0
tags: [hasten, diffusion, distillation, {"pruned" if recipe.prune else "few-step"}, {conditional}]
---
# {recipe.name}

{kind} of `{teacher.name}` (weights sha256 `{recipe.teacher[:12]}`), made with
`hasten learn student` and objective `{recipe.objective}`{guided}{begun}{source}.

- trained on {seen:,} pictures, batch {recipe.optimizer.batch}, rate \
{recipe.optimizer.rate:g}, EMA {recipe.ema}, seed {recipe.seed}{rounded}

| plan | evaluations (NFE) | FD (95%) | recall | prompt accuracy | n |
|---|---:|---:|---:|---:|---:|
{rows}
FD and recall are in the features of the teacher's classifier, against the statistics of real
pictures there; compare them at equal n only.

{use}
In a plan of the teacher it is named by `levers=student(folder='this/folder')`.
"""
