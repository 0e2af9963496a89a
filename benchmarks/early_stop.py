"""Starts below the top of the schedule beside pure noise: ``python -m benchmarks.early_stop``.

FD, recall and ODE error of pure noise and of starts at several ratios, one solver and
grid
and from the same noise: every start for 5 evaluations, the analytic one for 10. FD is compared in
pairs. A start's own evaluations are part of its budget, and what else it costs is timed beside a
network call. Of the starts that leave the total time as it is, the one that scans best is held
against noise once more, on pictures that nothing was chosen by. A second run goes on where the
first ended.

Needs the files that ship with builtin:mnist, and others where they are named:
``VAE=vae.safetensors MIXTURE=mixture.safetensors python -m benchmarks.early_stop``.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

import hasten
from benchmarks.results_io import FOLDER, read, write
from hasten.core.condition import as_condition
from hasten.measuring.frechet import frechet, frechet_estimate, influence, statistics
from hasten.measuring.ode_error import Reference, reference, reference_plan
from hasten.measuring.precision_recall import precision_recall
from hasten.measuring.real import Real, real_for
from hasten.measuring.timer import side_by_side
from hasten.sampling import Sampler, prepare

N, N_ODE_ERROR, SCAN, FRESH = 1000, 64, 1, 1001
ROUNDS = 15
SAME = 0.05  # of the budget: starts that cost no more leave the total time as it is
GAUSSIAN = "builtin:mnist/starts/gaussian.safetensors"
OPTIONAL = {"mixture": (5.0, 2.5), "vae": (5.0, 2.5)}
Facts = dict[str, Any]


def candidates(evaluations: int) -> list[Facts]:
    """Start and steps of every contender with a budget of ``evaluations``."""
    ratios = (40.0, 20.0, 10.0, 5.0, 2.5)
    starts = [f"gaussian(file={GAUSSIAN!r}, ratio={ratio})" for ratio in ratios]
    every = [{"start": start, "steps": evaluations} for start in starts]
    if evaluations > 5:
        return every
    for name, wanted in OPTIONAL.items():
        file = os.environ.get(name.upper())
        texts = [f"{name}(file={file!r}, ratio={ratio})" for ratio in wanted if file]
        every += [{"start": text, "steps": evaluations} for text in texts]
    plan = "solver=dpmpp,grid=uniform,steps=2"
    return [*every, {"start": f"plan(plan={plan!r}, ratio=2.0)", "steps": evaluations - 2}]


class Bench:
    """The model, what its pictures are held against, and one prepared network for all."""

    def __init__(self) -> None:
        self.model = hasten.load("builtin:mnist")
        self.base = hasten.Plan(solver="unipc(order=3)", grid="uniform", engine="openvino")
        self.net = prepare(self.model, self.base)
        self.real: Real | None = real_for(self.model)
        plan = reference_plan(engine="openvino")
        self.held: Reference = reference(self.model, N_ODE_ERROR, plan=plan, net=self.net)
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
            pictures = sampler.sample(N, seed=seed, condition=[i % 10 for i in range(N)])
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
        ode_error = self.held.ode_error(sampler.plan, self.net)
        assert ode_error is not None
        return {
            "plan": str(sampler.plan),
            "evaluations": sampler.evaluations,
            "fd": fd.value,
            "fd_interval": [fd.low, fd.high],
            "fd_minus_noise": self.worse(facts, noise, SCAN),
            "recall": recall.value,
            "ode_error": ode_error.rmse,
            "ode_error_interval": [ode_error.low, ode_error.high],
            "n": N,
            "n_ode_error": ode_error.n,
        }

    @torch.inference_mode()
    def cost(self, sampler: Sampler, batch: int) -> Facts:
        """Milliseconds of the start and of a network call for ``batch`` pictures, timed in turn."""
        noise, level = torch.randn(batch, *self.model.shape), sampler.levels[0]
        condition, t = as_condition(torch.full((batch,), 3), batch), torch.full((batch,), level.t)
        calls = [
            partial(sampler.begin, noise, level, condition),
            partial(self.net, noise, t, condition),
        ]
        start, call = side_by_side(calls, device=self.model.device, rounds=ROUNDS)
        times = {"start_ms": start.median * 1e3, "call_ms": call.median * 1e3}
        return {"batch": batch, **times, "n": ROUNDS}


def known(evaluations: int) -> dict[str, Facts]:
    """What an earlier run has measured already, by plan."""
    if not (FOLDER / "early_stop.json").exists():
        return {}
    rows = [one["rows"] for one in read("early_stop")["rows"] if one["evaluations"] == evaluations]
    return {row["plan"]: row for row in itertools.chain(*rows)}


def budget(bench: Bench, evaluations: int, keep: Callable[[Facts], None]) -> Facts:
    """Every contender at one number of evaluations; ``keep`` is given what is known so far."""
    noise: Facts = {"steps": evaluations}
    before, rows = known(evaluations), []
    found: Facts = {"evaluations": evaluations, "rows": rows}
    contenders = candidates(evaluations)
    for one in (noise, *contenders):
        plan = str(bench.sampler(one).plan)
        rows.append(before[plan] if plan in before else bench.row(one, noise))
        keep(found)
    able = []
    for one, row in zip((noise, *contenders), rows, strict=True):
        row["costs"] = [bench.cost(bench.sampler(one), batch) for batch in (1, 64)]
        share = max(cost["start_ms"] / cost["call_ms"] for cost in row["costs"]) / evaluations
        own = bench.sampler(one).evaluations == one["steps"]
        row["start_share_of_the_budget"] = share
        if own and share <= SAME and one is not noise:
            able.append((row["fd_minus_noise"]["value"], row["plan"], one))
    best = min(able, key=lambda one: one[0])
    again = bench.worse(best[2], noise, FRESH)
    verdict = "lower" if again["high"] < 0 else "higher" if again["low"] > 0 else "no different"
    found |= {
        "noise": rows[0]["plan"],
        "best_at_equal_time": best[1],
        "best_minus_noise_on_fresh_pictures": {**again, "n": N},
        "verdict": f"the best start's FD is {verdict} than that of noise at equal total time",
    }
    keep(found)
    return found


def main() -> None:
    bench, done = Bench(), [{"evaluations": count, "rows": []} for count in (5, 10)]
    done = [{**one, "rows": list(known(one["evaluations"]).values())} for one in done]

    def keep(found: Facts) -> None:
        rows = [found if one["evaluations"] == found["evaluations"] else one for one in done]
        done[:] = rows
        write("early_stop", f"starts below the top beside noise on builtin:mnist, n = {N}", rows)

    for evaluations in (5, 10):
        budget(bench, evaluations, keep)


if __name__ == "__main__":
    main()
