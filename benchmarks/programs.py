"""Learned programs beside every scheduler of diffusers and iPNDM on a GITS grid:
``python -m benchmarks.programs``.

The same frozen network, the same noise, one run: ODE error from the network's own converged
solution at 4, 5, 8 and 10 evaluations; FD and recall beside it, and the *floor*, the lowest FD
that any solver reached on this network (``results/peers.json``, and UniPC at up to 100
evaluations here). The
programs are those that ship with the built-in model, or in the folder given as an argument.
``python -m benchmarks.programs again 4 5`` measures shipped programs again, alone, on the same
noise, and says so in their rows.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import diffusers
import torch

import hasten
from benchmarks.peers.loop import evaluations, sample, walks
from benchmarks.peers.schedulers import available
from benchmarks.results_io import read, write
from hasten.learning.schedules.gits import gits
from hasten.measuring.measure import judged
from hasten.measuring.ode_error import Reference, reference, reference_plan
from hasten.sampling import prepare

N, PICTURES, ENGINE = 64, 1000, "openvino"
EVALUATIONS = (4, 5, 8, 10)
FLOOR = (6, 10, 20, 50, 100)
BAR = {4: 0.7, 5: 0.6, 8: 0.5, 10: 0.5}  # of the best of the others


def apart(pictures: torch.Tensor, held: Reference) -> tuple[float, float]:
    """Mean root mean square difference, and half its 95% interval."""
    each = (pictures - held.pictures).square().mean(dim=(1, 2, 3)).sqrt().double()
    return float(each.mean()), 1.96 * float(each.std()) / len(each) ** 0.5


def peers(held: Reference, net: Any) -> list[dict[str, Any]]:
    """The ODE error of every diffusers scheduler whose steps make 4, 5, 8 or 10 network calls."""
    labels = torch.tensor(held.condition)
    rows = []
    for config in available():
        for steps in range(2, max(EVALUATIONS) + 1):
            try:
                calls = evaluations(config, steps)
                if calls not in EVALUATIONS:
                    continue
                draws = walks(range(len(held.noise)))
                x = sample(net, held.model, config, steps, held.noise, labels, draws)
                ode_error, half = apart(held.model.codec.decode(x.float()), held)
            except Exception:  # a scheduler that cannot do so few steps is no rival
                continue
            if ode_error == ode_error:
                row = {"config": config.name, "steps": steps, "evaluations": calls}
                rows.append({**row, "ode_error": ode_error, "half": half})
    return rows


def ours(model: hasten.Model, plan: hasten.Plan, held: Reference, net: Any) -> dict[str, Any]:
    """ODE error, FD and recall of a plan of ours."""
    ode_error = held.ode_error(plan, net)
    assert ode_error is not None
    found = judged(hasten.build(model, plan, net=net), PICTURES)
    return {
        "plan": str(plan).replace(f",engine={ENGINE}", ""),
        "ode_error": ode_error.rmse,
        "half": ode_error.high - ode_error.rmse,
        "fd": found["fd"].value,
        "fd_interval": [found["fd"].low, found["fd"].high],
        "recall": found["recall"].value,
    }


def again(counts: list[int]) -> None:
    """The rows of ``counts`` with their learned programs measured anew."""
    model, result = hasten.load("builtin:mnist"), read("programs")
    net = prepare(model, hasten.Plan(engine=ENGINE))
    held = reference(model, N, plan=reference_plan(engine=ENGINE), net=net)
    for row in result["rows"]:
        if row.get("evaluations") not in counts:
            continue
        plan = hasten.Plan(program=f"builtin:mnist/programs/{row['evaluations']}.json")
        least = row["learned"]["ode_error"] / row["ratio"]
        row["learned"] = ours(model, plan.model_copy(update={"engine": ENGINE}), held, net)
        row["ratio"] = row["learned"]["ode_error"] / least
        row["learned"]["measured"] = "in a later run than the others, on the same noise"
    write("programs", result["what"], result["rows"])


def main() -> None:
    diffusers.utils.logging.set_verbosity_error()
    model = hasten.load("builtin:mnist")
    folder = sys.argv[1] if sys.argv[1:] else "builtin:mnist/programs"
    net = prepare(model, hasten.Plan(engine=ENGINE))
    held = reference(model, N, plan=reference_plan(engine=ENGINE), net=net)
    rivals = peers(held, net)
    rows = []
    for count in EVALUATIONS:
        name = f"{folder}/{count}.json"
        if not name.startswith("builtin:") and not Path(name).exists():
            continue
        plain = hasten.Plan(solver="ipndm", grid="uniform", steps=count, engine=ENGINE)
        chosen = {
            "learned": hasten.Plan(program=name, engine=ENGINE),
            "ipndm + gits": gits(model, plain),
            "ipndm + gits, clipped": gits(model, plain).model_copy(update={"clip": 1.0}),
        }
        found = {kind: ours(model, plan, held, net) for kind, plan in chosen.items()}
        best = min(
            (row for row in rivals if row["evaluations"] == count), key=lambda r: r["ode_error"]
        )
        least = min(
            best["ode_error"],
            *(one["ode_error"] for kind, one in found.items() if kind != "learned"),
        )
        ratio = found["learned"]["ode_error"] / least
        row = {"evaluations": count, **found, "best of diffusers": best, "ratio": ratio}
        rows.append({**row, "bar": BAR[count], "n": N, "pictures": PICTURES})
        print(count, ratio, flush=True)
    plain = hasten.Plan(solver="unipc(order=3)", grid="uniform", engine=ENGINE)
    converged = []
    for steps in FLOOR:
        row = ours(model, plain.model_copy(update={"steps": steps}), held, net)
        converged.append({**row, "evaluations": steps})
    known = [row["fd"] for row in read("peers")["rows"] if row.get("fd") is not None]
    floor = min([*known, *(row["fd"] for row in converged)])
    what = f"learned programs beside the others, ODE error at n = {N}, FD at n = {PICTURES}"
    write("programs", what, [*rows, {"floor": floor, "converged": converged}])


if __name__ == "__main__":
    if sys.argv[1:2] == ["again"]:
        again([int(count) for count in sys.argv[2:]])
    else:
        main()
