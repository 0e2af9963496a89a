"""Starts below the top of the path beside pure noise: ``python -m benchmarks.early_stop [VAE]``.

For 10 and for 5 evaluations: FD, recall and drift of pure noise and of every start at several
ratios, the same solver and grid for all (the better of two for noise), from the same noise; FD is
compared in pairs. A start's own evaluations count, and what else it costs is timed beside noise.
The start that scans best is held against noise once more, on pictures that nothing was chosen by.

Needs the files that ship with builtin:mnist; a VAE and a mixture are read where they are named:
``VAE=vae.safetensors MIXTURE=mixture.safetensors python -m benchmarks.early_stop``.
"""

from __future__ import annotations

import os
from functools import partial
from typing import Any

import torch

import hasten
from benchmarks.results_io import write
from hasten.measuring.drift import Reference, reference, reference_plan
from hasten.measuring.frechet import frechet, frechet_estimate, influence, statistics
from hasten.measuring.manifold import precision_recall
from hasten.measuring.real import Real, real_for
from hasten.measuring.timer import side_by_side
from hasten.sampler import Sampler, prepare

N, N_DRIFT, SCAN, FRESH = 1000, 64, 1, 1001
ROUNDS = {1: 21, 64: 5}  # timings by pictures at a time
BASES = ("dpmpp(order=2)", "unipc(order=3)")
GAUSSIAN = "builtin:mnist/starts/gaussian.safetensors"
Facts = dict[str, Any]


def candidates(evaluations: int) -> list[Facts]:
    """Start and steps of every contender with a budget of ``evaluations``."""
    out: list[Facts] = []
    for ratio in (40.0, 20.0, 10.0, 5.0, 2.5):
        out.append({"start": f"gaussian(file={GAUSSIAN!r}, ratio={ratio})"})
    if os.environ.get("MIXTURE"):
        file = os.environ["MIXTURE"]
        out += [{"start": f"mixture(file={file!r}, ratio={ratio})"} for ratio in (5.0, 2.5, 1.5)]
    if os.environ.get("VAE"):
        file = os.environ["VAE"]
        out += [{"start": f"vae(file={file!r}, ratio={ratio})"} for ratio in (5.0, 2.5, 1.5)]
    before = 2 if evaluations == 5 else 4
    plan = f"solver=dpmpp,grid=uniform,steps={before}"
    for ratio in (5.0, 2.0, 1.0):
        start = f"plan(plan={plan!r}, ratio={ratio})"
        out.append({"start": start, "steps": evaluations - before})
    return [{"steps": evaluations, **one} for one in out]


class Bench:
    """The model, what its pictures are held against, and one prepared network for all."""

    def __init__(self) -> None:
        self.model = hasten.load("builtin:mnist")
        self.base = hasten.Plan(grid="uniform", engine="openvino")
        self.net = prepare(self.model, self.base)
        self.real: Real | None = real_for(self.model)
        plan = reference_plan(engine="openvino")
        self.held: Reference = reference(self.model, N_DRIFT, plan=plan, net=self.net)
        self._features: dict[tuple[str, int], torch.Tensor] = {}

    def sampler(self, facts: Facts) -> Sampler:
        plan = hasten.Plan(**{**self.base.model_dump(), **facts})
        return hasten.build(self.model, plan, net=self.net)

    def features(self, facts: Facts, seed: int) -> torch.Tensor:
        """Features of N pictures, labels in turn."""
        assert self.real is not None
        sampler = self.sampler(facts)
        key = (sampler.plan.key, seed)
        if key not in self._features:
            pictures = sampler.sample(N, seed=seed, cond=[i % 10 for i in range(N)])
            self._features[key] = self.real.features(pictures)
        return self._features[key]

    def worse(self, facts: Facts, than: Facts, seed: int) -> Facts:
        """FD of one minus FD of the other on the same noise, and its 95% interval."""
        assert self.real is not None
        value, pulls = 0.0, torch.zeros(N, dtype=torch.float64)
        for one, sign in ((facts, 1.0), (than, -1.0)):
            seen = self.features(one, seed)
            value += sign * frechet(*statistics(seen), self.real.mean, self.real.covariance)
            pulls += sign * influence(seen, self.real.mean, self.real.covariance)
        half = 1.96 * float(pulls.std()) / N**0.5
        return {"value": value, "low": value - half, "high": value + half}

    def row(self, facts: Facts, noise: Facts) -> Facts:
        """All that is measured of one contender."""
        assert self.real is not None
        assert self.real.sample is not None
        sampler, seen = self.sampler(facts), self.features(facts, SCAN)
        fd = frechet_estimate(seen, self.real.mean, self.real.covariance)
        recall = precision_recall(seen, self.real.sample)[1]
        drift = self.held.drift(sampler.plan, self.net)
        assert drift is not None
        return {
            "plan": str(sampler.plan),
            "evaluations": sampler.evaluations,
            "fd": fd.value,
            "fd_interval": [fd.low, fd.high],
            "fd_minus_noise": self.worse(facts, noise, SCAN),
            "recall": recall.value,
            "drift": drift.rmse,
            "drift_interval": [drift.low, drift.high],
            "n": N,
            "n_drift": drift.n,
            "times": self.times(facts, noise),
        }

    def times(self, facts: Facts, noise: Facts) -> Facts:
        """How many times as long as from noise, timed in turn, one and 64 pictures at a time."""
        samplers, out = [self.sampler(one) for one in (facts, noise)], Facts()
        for batch, rounds in ROUNDS.items():
            options = {"cond": 3, "batch": batch}
            calls = [partial(one.sample, batch, **options) for one in samplers]
            mine, theirs = side_by_side(calls, device=self.model.device, rounds=rounds)
            out[f"batch_{batch}"] = {"ratio": mine.median / theirs.median, "n": rounds}
        return out


def budget(bench: Bench, evaluations: int) -> Facts:
    """Every contender at one number of evaluations."""
    bases = [{"solver": solver, "steps": evaluations} for solver in BASES]
    noise = min(bases, key=lambda one: bench.row(one, one)["fd"])
    rows = [bench.row(one, noise) for one in bases]
    contenders = [{**noise, **one} for one in candidates(evaluations)]
    for one in contenders:
        rows.append(bench.row(one, noise))
        print(rows[-1], flush=True)
    best = min(contenders, key=lambda one: bench.worse(one, noise, SCAN)["value"])
    again = bench.worse(best, noise, FRESH)
    verdict = "lower" if again["high"] < 0 else "higher" if again["low"] > 0 else "no different"
    return {
        "evaluations": evaluations,
        "noise": str(bench.sampler(noise).plan),
        "best": str(bench.sampler(best).plan),
        "best_minus_noise_on_fresh_pictures": {**again, "n": N},
        "verdict": f"the best start's FD is {verdict} than that of noise",
        "rows": rows,
    }


def main() -> None:
    bench = Bench()
    rows = [budget(bench, evaluations) for evaluations in (10, 5)]
    write("early_stop", f"starts below the top beside noise on builtin:mnist, FD at n = {N}", rows)


if __name__ == "__main__":
    main()
