"""What hasten adds to the bare network calls, and what a long program holds in memory."""

from __future__ import annotations

import functools
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import torch

import hasten
from benchmarks.results_io import write
from hasten.core.artifact import ASSETS
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


class Inside:
    """Seconds that a pipeline spends in its network, text encoder and decoder."""

    def __init__(self, pipe: Any) -> None:
        self.pipe, self.seconds = pipe, 0.0
        for owner, name in ((pipe.unet, "forward"), (pipe.text_encoder, "forward")):
            setattr(owner, name, self._timed(getattr(owner, name)))
        pipe.vae.decode = self._timed(pipe.vae.decode)

    def _timed(self, call: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(call)
        def timed(*inputs: Any, **options: Any) -> Any:
            began = time.perf_counter()
            out = call(*inputs, **options)
            self.seconds += time.perf_counter() - began
            return out

        return timed

    def share(self, request: Callable[[], object]) -> float:
        """What ``request`` takes outside of them, relative to what it takes inside."""
        self.seconds = 0.0
        return once(request) / self.seconds - 1


def applied(steps: int = 10) -> dict[str, object]:
    """What a pipeline's call takes beyond network, text encoder and decoder, with a plan applied
    and with a scheduler of diffusers of as many evaluations, in turn."""
    import diffusers

    pipes: list[Any] = []
    for planned in (True, False):
        pipe: Any = diffusers.DiffusionPipeline.from_pretrained(ASSETS / "shapes")
        pipe.set_progress_bar_config(disable=True)
        if planned:
            hasten.apply(pipe, f"solver=dpmpp(order=2),grid=log-snr,steps={steps},guidance=4")
        else:
            scheduler = diffusers.DPMSolverMultistepScheduler
            pipe.scheduler = scheduler.from_config(pipe.scheduler.config)
        pipes.append(pipe)
    inside = [Inside(pipe) for pipe in pipes]
    options = {"num_inference_steps": steps, "guidance_scale": 4.0, "output_type": "pt"}
    shares: list[list[float]] = [[], []]
    for number in range(PAIRS + 2):
        for side in (0, 1) if number % 2 else (1, 0):
            seen = inside[side].share(lambda: pipes[side]("a red circle", **options))  # noqa: B023
            if number > 1:
                shares[side].append(seen)
    quarters = statistics.quantiles(shares[0], n=4)
    return {
        "what": f"overhead of a pipeline's call with a plan of {steps} steps applied",
        "value": statistics.median(shares[0]),
        "quartiles": [quarters[0], quarters[2]],
        "stock": statistics.median(shares[1]),
        "n": PAIRS,
    }


def main() -> None:
    rows = [overhead(1), overhead(64), latents(), help_time(), applied()]
    write("overhead", "what hasten adds to the network", rows)


if __name__ == "__main__":
    main()
