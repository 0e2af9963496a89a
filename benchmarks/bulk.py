"""What writing costs bulk generation: ``python -m benchmarks.bulk [MODEL]``.

Pictures a second of the bare sampler, and of ``hasten.generating.generate`` with shards of PNGs, of
the same plan, batches and threads, in turn. The model is loaded before either is timed.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time

import torch

import hasten
from benchmarks.results_io import write
from hasten.generating.job import Job
from hasten.generating.maker import Maker

ROUNDS = 5
PLAN = hasten.Plan(solver="unipc(order=3)", steps=8)


def measured(name: str, n: int = 512, batch: int = 64) -> dict[str, object]:
    """Median pictures a second of both, and the median over rounds of what writing adds."""
    sampler = hasten.build(hasten.load(name), PLAN)
    bare, written = [], []
    for number in range(ROUNDS + 1):
        # The order alternates, so that neither always runs on the warmer machine.
        pair = [_bare, _written] if number % 2 else [_written, _bare]
        for run in pair:
            seconds = run(sampler, name, n, batch)
            if number:  # the first round warms up
                (bare if run is _bare else written).append(seconds)
    ratios = [slow / fast - 1 for slow, fast in zip(written, bare, strict=True)]
    return {
        "what": f"bulk generation of {name}, batch {batch}",
        "plan": str(PLAN),
        "threads": torch.get_num_threads(),
        "bare_per_s": n / statistics.median(bare),
        "png_per_s": n / statistics.median(written),
        "added": statistics.median(ratios),
        "n": ROUNDS,
    }


def _bare(sampler: hasten.Sampler, name: str, n: int, batch: int) -> float:
    labels = sampler.model.labels_in_turn(n)
    began = time.perf_counter()
    sampler.sample(n, condition=labels, batch=batch)
    return time.perf_counter() - began


def _written(sampler: hasten.Sampler, name: str, n: int, batch: int) -> float:
    with tempfile.TemporaryDirectory() as out:
        plan = PLAN.model_dump(mode="json")
        threads = torch.get_num_threads()
        job = Job(model=name, out=out, n=n, batch=batch, plan=plan, shard=n, threads=threads)
        maker = Maker(job)
        began = time.perf_counter()
        maker.make(0, lambda *_: None)
        return time.perf_counter() - began


def main(name: str = "builtin:mnist") -> None:
    write("bulk", "what writing costs bulk generation", [measured(name)])


if __name__ == "__main__":
    main(*sys.argv[1:])
