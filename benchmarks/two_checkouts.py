"""What hasten itself costs, in two checkouts: ``python -m benchmarks.two_checkouts OLD``.

OLD is the root of another checkout of this repository. Each figure is measured in processes of
both in turn, on one machine in one run; what a sample costs beside its network is measured with a
network that costs nothing.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.results_io import write

HERE = Path(__file__).parents[1]
ROUNDS = 7
TIMED = """
import json, time
began = time.perf_counter()
import hasten
imported = time.perf_counter() - began
import dataclasses, statistics, torch

class Nothing(torch.nn.Module):
    def forward(self, x, t, condition=None):
        return x

model = hasten.load("builtin:mnist")
loaded = time.perf_counter() - began
plan = hasten.Plan(solver="dpmpp(order=2)", steps=20)

def milliseconds(model, count):
    sampler = hasten.build(model, plan)
    times = []
    for _ in range(count):
        began = time.perf_counter()
        sampler.sample(1)
        times.append(time.perf_counter() - began)
    return 1e3 * statistics.median(times[3:]) / 20

empty = milliseconds(dataclasses.replace(model, net=Nothing(), labels=None, null_label=None), 60)
print(json.dumps({
    "import, s": imported,
    "import and load builtin:mnist, s": loaded,
    "an evaluation of a 20-step sample without its network, batch 1, ms": empty,
    "an evaluation of a 20-step sample, batch 1, ms": milliseconds(model, 20),
}))
"""
COMMANDS = {
    "hasten --help, s": ["--help"],
    "hasten sample builtin:mnist --n 20 (the last step of make demo), s": [
        *["sample", "builtin:mnist", "--plan", "solver=ddim,steps=8", "--n", "20", "--out", "OUT"]
    ],
}


def figures(checkout: Path, scratch: Path) -> dict[str, float]:
    """All figures of a checkout, once."""
    environment = {**os.environ, "PYTHONPATH": str(checkout / "src"), "CUDA_VISIBLE_DEVICES": ""}

    def run(arguments: list[str]) -> str:
        command = [sys.executable, *arguments]
        done = subprocess.run(command, env=environment, cwd=scratch, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(done.stderr[-2000:])
        return done.stdout

    out = json.loads(run(["-c", TIMED]))
    for what, arguments in COMMANDS.items():
        code = "import sys, time; began = time.perf_counter(); import subprocess\n"
        code += "subprocess.run([sys.executable, '-m', 'hasten', *sys.argv[1:]], check=True, "
        code += "capture_output=True); print(time.perf_counter() - began)"
        given = [str(scratch / checkout.name) if word == "OUT" else word for word in arguments]
        out[what] = float(run(["-c", code, *given]))
    return out


def main(old: Path) -> None:
    import tempfile

    found: dict[str, dict[str, list[float]]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for _ in range(ROUNDS):
            for side, checkout in (("before", old), ("after", HERE)):
                for what, value in figures(checkout.resolve(), Path(scratch)).items():
                    found.setdefault(what, {}).setdefault(side, []).append(value)
    rows: list[dict[str, Any]] = []
    for what, sides in found.items():
        middle = {side: statistics.median(values) for side, values in sides.items()}
        pairs = zip(sides["after"], sides["before"], strict=True)
        rows.append(
            {
                "what": what,
                **middle,
                "times": statistics.median(a / b for a, b in pairs),
                "n": ROUNDS,
            }
        )
    write("two_checkouts", "what hasten itself costs, before and after the second design", rows)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
