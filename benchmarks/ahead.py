"""The recommended plans beside diffusers: ``python -m benchmarks.ahead [training_free]``.

Needs ``results/peers.json`` (benchmarks/peers) and the tuner's plans, ``runs/ahead/batch-1`` and
``runs/ahead/batch-64``, from ``hasten tune builtin:mnist --batch 1 --out runs/ahead/batch-1 ...``;
``training_free`` takes those in ``runs/training_free``, of the model without what ships beside it.
Every contender runs in a process of its own, and they are timed in turn: thread pools of several
runtimes in one process slow each other down.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import hasten
from benchmarks.peers.diffusers_schedulers import CONFIGS, reaching, timing_calls
from benchmarks.peers.loop import SEED, start
from benchmarks.results_io import read, write
from hasten.core.random_streams import Seed
from hasten.measuring.measure import judged
from hasten.measuring.memory import peak_mb
from hasten.measuring.real import real_for
from hasten.measuring.timer import once, summary

FOLDER = Path("runs/ahead")
N, ROUNDS, SAME = 1000, 15, 1.05
EXPORTS = ("openvino", "onnx")
FULL = {1: (0, 7, 14), 64: (0, 7)}  # in which rounds all 1000 ancestral steps are run
DDPM = "DDPM leading"
Facts = dict[str, Any]


def call_of(spec: Facts) -> Callable[[], object]:
    """What a contender does: from given noise to latents."""
    model, batch = hasten.load("builtin:mnist"), spec["batch"]
    if spec["side"] == "hasten":
        sampler = hasten.build(model, hasten.Plan.of(spec["plan"]))
        noise, condition = start(model, batch), [i % 10 for i in range(batch)]
        return lambda: sampler.sample(noise=noise, condition=condition, raw=True, batch=batch)
    config = next(config for config in CONFIGS if config.name == spec["config"])
    pairs = timing_calls([(config, spec["steps"])], batch, model)
    return next(call for facts, call in pairs if facts["engine"] == spec["engine"])


def contend() -> None:
    """A contender's process: a line in is a run, a line out its seconds and peak megabytes."""
    call = call_of(json.loads(sys.stdin.readline()))
    for _ in sys.stdin:
        print(once(call), peak_mb(), flush=True)


class Contender:
    """A process of its own that runs when it is told to: of ``module``, or of the export in the
    folder ``spec["folder"]``.

    Attributes:
        peak_mb: the most that it has held, Python and libraries included.
    """

    def __init__(self, spec: Facts, module: str = "benchmarks.ahead") -> None:
        self.spec, self.seconds, self.peak_mb = spec, [], 0.0
        exported = ["benchmarks.exported", spec["folder"]] if "folder" in spec else None
        self._process = subprocess.Popen(
            [sys.executable, "-m", *(exported or [module, "contend"])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self._process.stdin is not None
        if exported is None:
            self._process.stdin.write(json.dumps(spec) + "\n")

    def run(self) -> float:
        """Seconds of a run.

        Raises:
            OSError: the process ended, as one that compiles does where there is no compiler.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise OSError(f"the process of {self.spec} ended")
        seconds, self.peak_mb = map(float, line.split())
        return seconds

    def warms(self) -> bool:
        """Whether two runs, which compile and fill caches, go well."""
        try:
            return self.run() >= 0 and self.run() >= 0
        except OSError:
            return False

    def row(self) -> Facts:
        """What it is, and its milliseconds and peak megabytes."""
        timing = summary(self.seconds[0], self.seconds).milliseconds()
        timing = {key: getattr(timing, key) for key in ("median", "low", "high", "n")}
        return {**self.spec, **timing, "peak_mb": round(self.peak_mb)}

    def close(self) -> None:
        self._process.kill()
        self._process.wait()


def raced(
    batch: int,
    plan: Facts,
    chosen: list[Facts],
    full: tuple[int, ...],
    rounds: int = ROUNDS,
    folder: Path = FOLDER,
) -> list[Facts]:
    """Milliseconds of the plan, its exports in ``folder`` (which make one picture at a time), the
    chosen peers (eager and compiled) and, in the rounds ``full``, DDPM-1000."""
    specs = [{"side": "hasten", "plan": plan, "batch": batch}]
    if batch == 1:
        specs += [{"side": f"export, {to}", "folder": exported(plan, to, folder)} for to in EXPORTS]
    for row in chosen:
        peer = {"side": "diffusers", "config": row["config"], "steps": row["steps"], "batch": batch}
        specs += [{**peer, "engine": engine, "fd": row["fd"]} for engine in ("eager", "compile")]
    specs.append(
        {"side": "diffusers", "config": DDPM, "steps": 1000, "batch": batch, "engine": "eager"}
    )
    started = [Contender(spec) for spec in specs]
    try:
        contenders = [one for one in started[:-1] if one.warms()] + started[-1:]
        for number in range(rounds):
            order = contenders if number % 2 else contenders[::-1]
            for contender in order:
                if contender.spec.get("steps") != 1000 or number in full:
                    contender.seconds.append(contender.run())
    finally:
        for contender in started:
            contender.close()
    return [contender.row() for contender in contenders]


def exported(plan: Facts, to: str, folder: Path) -> str:
    """Where in ``folder`` ``plan`` was exported for the runtime ``to``."""
    out = folder / f"{hasten.Plan.of(plan).key}-{to}"
    if not out.exists():
        hasten.export(hasten.load("builtin:mnist"), hasten.Plan.of(plan), to, out)
    return str(out)


def beside(batch: int, folder: Path = FOLDER) -> Facts:
    """One batch size: the plan's FD, who of diffusers reaches it, and the race."""
    plan = json.loads((folder / f"batch-{batch}" / "plan.json").read_text())
    model = hasten.load("builtin:mnist")
    assert SEED == Seed.QUALITY  # the same start noise as the peers'
    sampler = hasten.build(model, hasten.Plan.of(plan))
    found = judged(sampler, N, real_for(model))
    fd = found["fd"].value
    peers = [row for row in read("peers")["rows"] if 5 <= row.get("steps", 0) <= 50]
    peers = [row for row in peers if not row.get("distilled")]
    lowest = min(row.get("fd", float("inf")) for row in peers)
    able = reaching(peers, SAME * max(fd, lowest))  # where none reaches it, the nearest
    least = able[0]["evaluations"]
    chosen: dict[str, Facts] = {}
    for row in able:  # the best of every scheduler's configurations, with the fewest calls
        if row["evaluations"] == least:
            chosen.setdefault(row["scheduler"], row)
    rows = raced(batch, plan, list(chosen.values()), FULL[batch], folder=folder)
    ours = rows[0]["median"]
    fastest = min(
        (row for row in rows[:-1] if row["side"] == "diffusers"), key=lambda row: row["median"]
    )
    return {
        "batch": batch,
        "plan": str(hasten.Plan.of(plan)),
        "evaluations": sampler.evaluations,
        "fd": fd,
        "fd_interval": [found["fd"].low, found["fd"].high],
        "recall": found["recall"].value,
        "n": N,
        "ms_a_picture": ours / batch,
        "times_faster_than_ddpm_1000": rows[-1]["median"] / ours,
        "fastest_peer": {key: fastest[key] for key in ("config", "steps", "engine", "fd")},
        "times_faster_than_fastest_peer": fastest["median"] / ours,
        "peers_that_reach_it": len(reaching(peers, SAME * fd)),
        "lowest_fd_of_peers": lowest,
        "timings": rows,
    }


def main(name: str = "ahead") -> None:
    torch.manual_seed(0)
    rows = [beside(batch, FOLDER.parent / name) for batch in FULL]
    what = f"the tuner's plans beside diffusers at FD + {SAME - 1:.0%} (n = {N})"
    write(name, what, rows)


if __name__ == "__main__":
    contend() if sys.argv[1:2] == ["contend"] else main(*sys.argv[1:])
