"""Cheaper network calls: the plan that leads once more, with fewer bits, tokens and channels."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hasten.core.plan import Plan
from hasten.levers.quantize import layers
from hasten.levers.torchao import ENGINES, PREFIX
from hasten.sampling import subject
from hasten.tuning.final_selection import Finals
from hasten.tuning.search import Row

MERGED = 0.5  # share of the tokens
ALL, EACH, SIMULATED = 128, 16, 2.0  # pictures of a calibration, in all and for each layer; what an
# evaluation in simulated integers takes for one in floats


def try_cheaper(
    run: Any, finals: Finals, folder: Path | None, smaller: Iterable[str] = ()
) -> tuple[list[str], list[Row]]:
    """Time the plan that leads with each lever, and with each of the ``smaller`` networks that
    imitate the model, and where that is faster take it into the finals.

    Returns:
        What came of each, in sentences; and how far each layer of the network moves the plan's
        pictures when it alone is in eight bits, where that was asked.
    """
    leads = finals.leader()
    plan = None if leads is None else Plan(**leads["plan"])
    if leads is None or plan is None or plan.reuse or plan.executor != "sequential":
        why = "no plan passes" if plan is None else "not tried with reuse or in parallel"
        return [f"cheaper network calls: {why}"], []
    tried: dict[str, Plan | str] = {}
    tried |= {f"smaller network {name!r}": _by(name, plan) for name in smaller}
    tried["linear layers in eight bits by torchao"] = _torchao(finals, plan)
    tried["merged tokens"] = plan.model_copy(update={"merge": MERGED})
    said = [f"{name}: {_timed(run, finals, leads, one)}" for name, one in tried.items()]
    made, layers = _eight_bits(run, finals, leads, folder)  # last: calibrating takes longest
    return [*said, f"eight bits: {_timed(run, finals, leads, made)}"], layers


def _eight_bits(
    run: Any, finals: Finals, leads: Row, folder: Path | None
) -> tuple[Plan | str, list[Row]]:
    """The plan with its network in integers, calibrated on it, or why not. OpenVINO runs them,
    whatever engine the plan is run in."""
    able = next((row for row in finals.engines if row["engine"] == "openvino"), None)
    if able is None:
        return "tried in OpenVINO, which does not run the fastest plan here", []
    left = run.until("all") - time.monotonic()
    if folder is None or left < 0:
        return "no folder was given" if folder is None else "time ran out", []
    plan = Plan(**leads["plan"])
    pictures = ALL + EACH * len(layers(subject(run.lab.model, plan).net))
    took = pictures * leads["evaluations"] * SIMULATED * run.pace.each
    if took > left:
        return f"takes about {took:.0f} s, more than is left; `hasten learn quantize` does it", []
    file = str(folder / f"w8a8-{plan.key}.safetensors")
    made = run.ask("quantize", "calibrating", plan=plan.model_dump(), file=file)
    if made is None:
        return run.refused.pop().why, []
    return finals.on(plan, able).model_copy(update={"quantize": file}), made["layers"]


def _by(name: str, plan: Plan) -> Plan | str:
    """The plan by another network. A program is taken along, though learned for the whole one."""
    if plan.student or plan.small:
        return "the plan that leads has a network of its own"
    others = plan.other_weights or plan.program is not None
    return plan.model_copy(update={"student": name, "other_weights": others})


def _torchao(finals: Finals, plan: Plan) -> Plan | str:
    able = next((row for row in finals.engines if row["engine"] in ENGINES), None)
    if able is None:
        return f"tried in {' and '.join(ENGINES)}, which were not measured here"
    return finals.on(plan, able).model_copy(update={"quantize": f"{PREFIX}int8"})


def _timed(run: Any, finals: Finals, leads: Row, plan: Plan | str) -> str:
    if isinstance(plan, str):
        return plan
    if time.monotonic() > run.until("all"):
        return "time ran out before it was timed"
    facts = finals.racing(2 * leads["latency_ms"]["median"] / 1000)
    plans = [leads["plan"], plan.model_dump()]
    done = run.ask("race", f"timing {plan}", plans=plans, **facts)
    if done is None:
        return run.refused.pop().why
    first, second = (timing["median"] for timing in done["timings"])
    engine, dtype = leads["plan"]["engine"], leads["plan"]["dtype"]
    what = f"{second / first:.2g} times as long as {engine} in {dtype} here"
    if second >= first:
        return f"{what}, so not used"
    finals.again(plan, leads)
    return f"{what}, so tried with the finalists"
