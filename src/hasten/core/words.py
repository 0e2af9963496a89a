"""Plans in text for people; ``str(plan)`` is the text that a plan can be read from."""

from __future__ import annotations

from pathlib import PurePath

from hasten.core.lever import levers
from hasten.core.parts import REGISTRIES, parsed_levers
from hasten.core.plan import Plan


def in_words(plan: Plan, engine: bool = True) -> str:
    """``plan`` as one would say it: "5 steps, DPM-Solver++ (order 3), log-SNR levels, OpenVINO
    bfloat16". Fields that are as they are by default, and where it runs, are left out; files are
    named by their last part. Reads no file.

    Args:
        engine: whether to say in which engine and dtype.
    """
    words = {
        field: registry.words(registry.parse(text))
        for field, registry in REGISTRIES.items()
        if (text := getattr(plan, field)) is not None
    }
    said: list[str] = []
    if plan.program is not None:
        said.append(f"learned program {PurePath(plan.program).name}")
    elif plan.solver is not None:
        said.append("1 step" if plan.steps == 1 else f"{plan.steps} steps")
        said += [words["solver"], words["grid"]]
    said += [levers.words(lever) for lever in parsed_levers(plan.levers)]
    if plan.clip is not None:
        said.append(f"clipped to {plan.clip:g}")
    if plan.guidance != 1.0:
        said.append(f"guidance {plan.guidance:g}")
    chosen = plan.chosen()
    said += [f"{field} {words[field]}" for field in ("start", "executor") if field in chosen]
    if engine:
        said.append(f"{words['engine']} {plan.dtype}")
    return ", ".join(said)
