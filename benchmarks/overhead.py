"""What hasten adds to the bare network calls, and what a long program holds in memory."""

from __future__ import annotations

import statistics
import subprocess
import sys

import torch

import hasten
from benchmarks.results_io import write
from hasten.measuring.timer import once

PAIRS = 40


@torch.inference_mode()
def overhead(batch: int) -> dict[str, object]:
    """Median over pairs of (sample of 20 steps - 20 bare calls) / 20 bare calls."""
    model = hasten.load("builtin:mnist")
    sampler = hasten.build(model, hasten.Plan(solver="dpmpp(order=2)", steps=20))
    assert sampler.program is not None
    x = torch.randn(batch, *model.shape)
    labels = torch.full((batch,), 3)
    times = [torch.full((batch,), level.t) for level in sampler.program.levels]

    def bare() -> None:
        for t in times:
            model.net(x, t, labels)

    def whole() -> None:
        sampler.sample(batch, condition=3, batch=batch)

    for _ in range(3):
        bare(), whole()
    ratios, calls = [], []
    for pair in range(PAIRS):
        # The order alternates, so that neither always runs on the warmer machine.
        first, second = (bare, whole) if pair % 2 else (whole, bare)
        one, other = once(first), once(second)
        few, all_of_it = (one, other) if pair % 2 else (other, one)
        ratios.append(all_of_it / few - 1)
        calls.append(few / 20)
    quarters = statistics.quantiles(ratios, n=4)
    return {
        "what": f"overhead of a 20-step sample, batch {batch}",
        "value": statistics.median(ratios),
        "quartiles": [quarters[0], quarters[2]],
        "call_ms": statistics.median(calls) * 1e3,
        "n": PAIRS,
    }


def help_time() -> dict[str, object]:
    """Seconds of ``hasten --help`` as a whole process."""
    command = [sys.executable, "-m", "hasten", "--help"]
    runs = [
        once(lambda: subprocess.run(command, check=True, capture_output=True)) for _ in range(11)
    ]
    return {"what": "seconds of hasten --help", "value": statistics.median(runs[1:]), "n": 10}


def latents() -> dict[str, object]:
    """Latents alive at once in 1000 ancestral steps."""
    program = hasten.trace(hasten.Plan(solver="ddpm", grid="uniform", steps=1000), "ddpm")
    return {"what": "latents alive at once in 1000 ancestral steps", "value": program.peak, "n": 1}


def main() -> None:
    rows = [overhead(1), overhead(64), latents(), help_time()]
    write("overhead", "what hasten adds to the network", rows)


if __name__ == "__main__":
    main()
