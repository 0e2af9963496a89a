"""Cheaper evaluations of ``builtin:mnist``: ``python -m benchmarks.smaller``.

Five questions: what a network call costs in fewer bits and with fewer channels, beside float32 and
bfloat16 (and NNCF's integers, where NNCF is installed), every contender in a process of its own and
timed in turn; what that does to FD; what a network of fewer channels gives at all evaluations, and
at all but one; what it gives in other plans; and how far from float32's its pictures are with fewer
bits, with weights rounded to the nearest and by GPTQ, with one row of ranges and with a row a step.
The network of fewer channels is what recipes/mnist-pruned.yaml made. ``... smaller call`` (quality,
width, plan, distance) measures one anew.
"""

from __future__ import annotations

import importlib.util
import itertools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import hasten
from benchmarks.ahead import Contender
from benchmarks.peers.nncf_static import NncfNet
from benchmarks.results_io import read, write
from hasten.core.engine import Prepared, beside, engines
from hasten.core.random_streams import generator
from hasten.learning.compression.quantize import learn_quantize
from hasten.measuring.macs import network_macs
from hasten.measuring.measure import judged
from hasten.measuring.memory import peak_mb
from hasten.measuring.real import real_for
from hasten.measuring.timer import once, summary
from hasten.sampling import prepare

BASE = hasten.Plan(solver="dpmpp(order=2)", grid="uniform", steps=10)
NOISY = hasten.Plan(solver="dpmpp-sde", grid="uniform", steps=6)  # of the lowest FD
MIXTURE = "mixture(file='builtin:mnist/starts/mixture.safetensors', ratio=1.6, steps=0)"
PLANS = (  # in which the pruned network stands for the whole one
    BASE,
    BASE.model_copy(update={"clip": 1.0}),
    hasten.Plan(solver="ddim", grid="uniform", steps=20),
    hasten.Plan(solver="unipc(order=3)", grid="uniform", steps=6, clip=1.0),
    hasten.Plan(solver="dpmpp(order=3)", grid="uniform", steps=5, clip=1.0),
    hasten.Plan(program="builtin:mnist/programs/5.json"),
    hasten.Plan(solver="dpmpp(order=3)", grid="uniform", steps=6, start=MIXTURE),
    NOISY,
    NOISY.model_copy(update={"steps": 10}),
)
JUDGED = ("w8a8", "w4a8")  # whose FD is measured as well
BITS = ("w8a16", "w8a8", "w6a8", "w4a8", "w8a6", "w6a6", "w8a4", "w4a4")
FOLDER, PRUNED = Path("runs/smaller"), str(Path(__file__).with_name("mnist-pruned"))
N, ROUNDS, COMPARED = 2000, 41, 256
STUDENT = f"student(folder={PRUNED!r})"
NNCF = "NNCF, int8"
Facts = dict[str, Any]


def variants() -> dict[str, Facts]:
    """What is timed: fields of plans beside BASE's."""
    file = FOLDER / "w8a8.safetensors"
    if not file.exists():
        learn_quantize(hasten.load("builtin:mnist"), BASE, file, rows="static")
    here: dict[str, Facts] = {
        "float32, eager": {},
        "float32": {"engine": "openvino"},
        "bfloat16": {"engine": "openvino", "dtype": "bfloat16"},
        "w8a8": {"engine": "openvino", "levers": (quantized(file),)},
        "w8a8, the rest bfloat16": {
            "engine": "openvino",
            "dtype": "bfloat16",
            "levers": (quantized(file),),
        },
    }
    here["pruned, float32"] = {"engine": "openvino", "levers": (STUDENT,)}
    here["pruned, bfloat16"] = {**here["pruned, float32"], "dtype": "bfloat16"}
    if importlib.util.find_spec("nncf"):
        here[NNCF] = {"engine": "openvino", "nncf": True}
    return here


def plan_and_net(fields: Facts) -> tuple[hasten.Plan, Prepared]:
    """The plan, and the network that it or NNCF makes of the model's."""
    model = hasten.load("builtin:mnist")
    plan = plan_of({name: value for name, value in fields.items() if name != "nncf"})
    return plan, NncfNet(model, BASE) if "nncf" in fields else prepare(model, plan)


def quantized(file: Path | str) -> str:
    return f"quantize(file={str(file)!r})"


def plan_of(fields: Facts) -> hasten.Plan:
    return BASE.model_copy(update=fields)


def call_of(spec: Facts) -> Callable[[], object]:
    """One network call at a time of the plan."""
    model = hasten.load("builtin:mnist")
    (plan, net), batch = plan_and_net(spec["fields"]), spec["batch"]
    engine, level = engines.parse(plan.engine), plan.levels(model.schedule)[3]
    x = torch.randn(batch, *model.shape, generator=generator(1))
    t = torch.full((batch,), level.t, dtype=torch.float32)
    condition = torch.arange(batch) % 10

    def call() -> object:
        with torch.inference_mode(), beside(engine):
            return net(x, t, condition)

    return call


def contend() -> None:
    """A contender's process: a line in is a run, a line out its seconds and peak megabytes."""
    call = call_of(json.loads(sys.stdin.readline()))
    for _ in range(5):
        call()
    for _ in sys.stdin:
        print(once(call), peak_mb(), flush=True)


def calls(batch: int) -> list[Facts]:
    """Milliseconds of a call, all in turn."""
    named = variants()
    held = [
        Contender({"fields": fields, "batch": batch}, "benchmarks.smaller")
        for fields in named.values()
    ]
    try:
        for number in range(ROUNDS + 2):
            for one in held if number % 2 else held[::-1]:
                seconds = one.run()
                if number >= 2:
                    one.seconds.append(seconds)
    finally:
        for one in held:
            one.close()
    timings = [summary(one.seconds[0], one.seconds).milliseconds() for one in held]
    first = timings[0].median
    return [
        {
            "kind": "call",
            "what": name,
            "batch": batch,
            **{key: getattr(timing, key) for key in ("median", "low", "high", "n")},
            "times_faster_than_eager": first / timing.median,
        }
        for name, timing in zip(named, timings, strict=True)
    ]


def qualities() -> list[Facts]:
    """FD and recall of every variant from the same noise, how far its pictures are from those in
    float32, what its weights take, its cost."""
    model, rows = hasten.load("builtin:mnist"), []
    real, whole, wanted = real_for(model), network_macs(model)[0], pictures(BASE)
    for name, fields in variants().items():
        plan, net = plan_and_net(fields)
        sampler = hasten.build(model, plan, net=net)
        found = judged(sampler, N, real)
        student = sampler.model
        rows.append(
            {
                "kind": "quality",
                "what": name,
                "fd": found["fd"].value,
                "fd_interval": [found["fd"].low, found["fd"].high],
                "recall": found["recall"].value,
                "n": N,
                "rmse": rmse(pictures(plan, net), wanted),
                "n_rmse": COMPARED,
                "weights_mb": sampler.net.weights_mb,
                "macs": network_macs(student)[0] / whole,
            }
        )
    for row in rows:
        row["times_the_fd"] = row["fd"] / rows[0]["fd"]
    return rows


def pictures(plan: hasten.Plan, net: Prepared | None = None) -> torch.Tensor:
    """COMPARED pictures, of the same noise whatever the plan."""
    model = hasten.load("builtin:mnist")
    noise = torch.randn(COMPARED, *model.shape, generator=generator(3))
    condition = [i % 10 for i in range(COMPARED)]
    return hasten.build(model, plan, net=net).sample(noise=noise, condition=condition, batch=64)


def rmse(here: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((here - wanted).square().mean().sqrt())


def widths() -> list[Facts]:
    """FD of the whole network, of the pruned one, and of the whole one at one evaluation alone."""
    model = hasten.load("builtin:mnist")
    columns = [tuple(int(k != whole) for k in range(NOISY.steps)) for whole in range(NOISY.steps)]
    tried = [
        ((0,) * NOISY.steps, ()),
        ((1,) * NOISY.steps, (STUDENT,)),
        *((at, (f"small(folder={PRUNED!r}, at={at})",)) for at in columns),
    ]
    pruned = hasten.build(model, plan_of({"levers": (STUDENT,)})).model
    each = network_macs(pruned)[0] / network_macs(model)[0]
    rows, real = [], real_for(model)
    for where, levers in tried:
        fast = {"levers": levers, "engine": "openvino", "dtype": "bfloat16"}
        found = judged(hasten.build(model, NOISY.model_copy(update=fast)), N, real)
        rows.append(
            {
                "kind": "width",
                "at": where,
                "macs": 1 - (1 - each) * sum(where) / len(where),
                "fd": found["fd"].value,
                "fd_interval": [found["fd"].low, found["fd"].high],
                "recall": found["recall"].value,
                "n": N,
            }
        )
        rows[-1]["times_the_fd"] = rows[-1]["fd"] / rows[0]["fd"]
    return rows


def plans() -> list[Facts]:
    """FD and recall of the whole network and of the pruned one, plan by plan."""
    model, rows = hasten.load("builtin:mnist"), []
    real, fast = real_for(model), {"engine": "openvino", "dtype": "bfloat16"}
    for plan in PLANS:
        small = {"levers": (STUDENT,), "other_weights": plan.program is not None}
        whole, less = (
            judged(hasten.build(model, plan.model_copy(update={**fast, **fields})), N, real)
            for fields in ({}, small)
        )
        rows.append(
            {
                "kind": "plan",
                "plan": str(plan),
                "fd": [whole["fd"].value, less["fd"].value],
                "recall": [whole["recall"].value, less["recall"].value],
                "times_the_fd": less["fd"].value / whole["fd"].value,
                "n": N,
            }
        )
        print(rows[-1], flush=True)
    return rows


def distances() -> list[Facts]:
    """RMSE of COMPARED pictures from the float32 ones, over bits and rows of ranges."""
    model, rows, wanted = hasten.load("builtin:mnist"), [], pictures(BASE)
    real = real_for(model)
    for bits in BITS:
        for rounding, ranges in itertools.product(("nearest", "gptq"), ("static", "steps")):
            file = str(FOLDER / "tried.safetensors")
            learn_quantize(model, BASE, file, bits=bits, rows=ranges, rounding=rounding)
            apart = rmse(pictures(plan_of({"levers": (quantized(file),)})), wanted)
            facts = {"bits": bits, "rounding": rounding, "rows": ranges, "n": COMPARED}
            rows.append({"kind": "distance", **facts, "rmse": apart})
            if bits in JUDGED:
                quick = plan_of({"levers": (quantized(file),), "engine": "openvino"})
                found = judged(hasten.build(model, quick), N, real)
                rows[-1] |= {"fd": found["fd"].value, "recall": found["recall"].value, "fd_n": N}
            print(rows[-1], flush=True)
    return rows


KINDS: dict[str, Callable[[], list[Facts]]] = {
    "call": lambda: [*calls(1), *calls(64)],
    "quality": qualities,
    "width": widths,
    "plan": plans,
    "distance": distances,
}


def main(only: str = "") -> None:
    """All five questions, or the kind ``only`` of them."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    before = read("smaller")["rows"] if only else []
    rows: list[Facts] = []
    for kind, measured in KINDS.items():
        rows += measured() if only in ("", kind) else [row for row in before if row["kind"] == kind]
    write("smaller", f"network calls of {BASE}, quantized and pruned", rows)


if __name__ == "__main__":
    only = "".join(sys.argv[1:2])
    contend() if only == "contend" else main(only)
