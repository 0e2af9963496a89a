"""Cost and ODE error of plans on the built-in model, side by side in one run, and FD of a few."""

from __future__ import annotations

import torch

import hasten
from benchmarks.results_io import write
from hasten.measuring.features import FeatureNet
from hasten.measuring.frechet import frechet, statistics
from hasten.measuring.ode_error import reference
from hasten.measuring.timer import once

N_ODE_ERROR, N_FD = 64, 1000
SOLVERS = ("ddim", "heun", "dpmpp(order=2)", "dpmpp(order=3)", "unipc(order=3)", "deis", "ipndm")
PLANS = [
    hasten.Plan(solver=solver, grid=grid, steps=steps)
    for grid in ("uniform", "log-snr", "karras")
    for solver in SOLVERS
    for steps in (5, 10, 20)
]
FOR_FD = [
    hasten.Plan(solver="ddim", grid="uniform", steps=10),
    hasten.Plan(solver="ddim", grid="uniform", steps=50),
    hasten.Plan(solver="dpmpp(order=2)", grid="uniform", steps=10),
    hasten.Plan(solver="unipc(order=3)", grid="uniform", steps=6),
    hasten.Plan(solver="unipc(order=3)", grid="uniform", steps=10),
    hasten.Plan(solver="unipc(order=3)", grid="uniform", steps=20),
]


def main() -> None:
    model = hasten.load("builtin:mnist")
    held = reference(model, N_ODE_ERROR)
    rows = []
    for plan in PLANS:
        ode_error = held.ode_error(plan)
        assert ode_error is not None
        sampler = hasten.build(model, plan)
        sampler.sample(1, condition=3)
        times = sorted(once(lambda s=sampler: s.sample(1, condition=3)) for _ in range(15))
        rows.append(
            {
                "plan": str(plan),
                "evaluations": sampler.evaluations,
                "latency_ms": times[7] * 1e3,
                "n_times": 15,
                "ode_error": ode_error.rmse,
                "ode_error_interval": [ode_error.low, ode_error.high],
                "n": ode_error.n,
            }
        )
    write("plans", f"latency at batch 1 and ODE error against {held.plan}", rows)
    fd(model)


def fd(model: hasten.Model) -> None:
    """FD at n = 1000 in the features of the built-in classifier, labels in equal shares."""
    features = FeatureNet.for_model(model)
    assert features is not None
    labels = [i % 10 for i in range(N_FD)]
    rows = []
    for plan in FOR_FD:
        sampler = hasten.build(model, plan)
        pictures = sampler.sample(N_FD, condition=labels, seed=1)
        scores = features.net(pictures).argmax(1)
        right = float((scores == torch.tensor(labels)).double().mean())
        value = frechet(*statistics(features(pictures)), features.mean, features.covariance)
        rows.append(
            {
                "plan": str(plan),
                "evaluations": sampler.evaluations,
                "fd": value,
                "right_class": right,
                "n": N_FD,
            }
        )
    write("fd", "FD to the MNIST training set in features of the built-in classifier", rows)


if __name__ == "__main__":
    main()
