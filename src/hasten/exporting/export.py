"""export(model, plan, to, out): the network, its programs, and a runner, in one folder."""

from __future__ import annotations

import json
from pathlib import Path

from hasten.core.artifact import digest
from hasten.core.errors import require
from hasten.core.files import new_folder, require_replaceable
from hasten.core.model import Model
from hasten.core.plan import PlanLike, as_plan
from hasten.exporting.bundle import bundle
from hasten.exporting.parity import Parity, parity
from hasten.exporting.target import targets


def export(model: Model, plan: PlanLike | None, to: str, out: str | Path) -> Parity:
    """Write ``model`` with ``plan`` for the runtime ``to`` into the folder ``out``; it appears once
    it was found to make the same pictures, or not at all.

    Args:
        plan: a Plan, a file, ``"key=value,..."`` or a dict; None for the model's own.
        to: ``onnx``, ``openvino``, ``executorch``, ``web`` or ``folder``.

    Raises:
        UserError: a plan, network or operator that the runtime cannot take, a missing package, or
            pictures that differ.
    """
    target, out = targets.parse(to), require_replaceable(out)
    target.check(model)
    plan = as_plan(plan, model.plan)
    exported = bundle(model, plan, others=target.others, dtypes=target.dtypes)
    require(
        target.prompts or exported.text is None,
        f"target {target.part_name!r} takes no prompts; export to onnx, openvino or web.",
    )
    with new_folder(out, {"target": target.part_name, "weights": digest(exported.model)}) as folder:
        (folder / "bundle.json").write_text(exported.to_json(), encoding="utf-8")
        target.write(exported, folder)
        result = parity(exported, target, folder)
        facts = {"plan": str(exported.first.plan), "dtype": exported.dtype, **result.to_dict()}
        text = json.dumps(facts, indent=1) + "\n"
        (folder / "parity.json").write_text(text, encoding="utf-8")
    return result
