"""Engines and dtypes on a GPU: ``python -m benchmarks.gpu``; about four minutes on one H200."""

from __future__ import annotations

import functools
import subprocess
from typing import Any

import torch

import hasten
from benchmarks.results_io import write
from hasten.measuring.probe import matmul_gflops
from hasten.measuring.timer import once

PLANS: dict[str, dict[str, Any]] = {
    "builtin:mnist": {"solver": "unipc(order=3)", "grid": "uniform", "steps": 10},
    "models/cifar10": {"solver": "ipndm", "grid": "karras", "steps": 8, "clip": 1.0},
}
DTYPES = ("float32", "float16", "bfloat16")
ROUNDS = {1: 15, 64: 7, 1024: 3}  # by batch


def main() -> None:
    rows: list[dict[str, Any]] = [
        {"kind": "matmul 1024", "dtype": dtype, "gflops": matmul_gflops(dtype, "cuda")}
        for dtype in DTYPES
    ]
    for source, fields in PLANS.items():
        model = hasten.load(source, device="cuda")
        exact = pictures(hasten.build(model, fields))
        for engine in ("eager", "cudagraph", "compile"):
            for dtype in DTYPES:
                sampler = hasten.build(model, {**fields, "engine": engine, "dtype": dtype})
                what = {"model": source, "engine": engine, "dtype": dtype}
                for batch, rounds in ROUNDS.items():
                    ms = 1e3 * median(sampler, batch, rounds)
                    rows.append({**what, "plan": fields, "batch": batch, "ms": ms, "n": rounds})
                apart = (pictures(sampler) - exact).abs()
                rmse = float(apart.square().mean().sqrt())
                rows.append(
                    {**what, "largest_difference": float(apart.max()), "rmse": rmse, "n": 64}
                )
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    driver = subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip()
    write("gpu", f"engines and dtypes on a GPU, driver {driver}", rows, "cuda")


def pictures(sampler: hasten.Sampler) -> torch.Tensor:
    return sampler.sample(64, seed=3, condition=[i % 10 for i in range(64)])


def median(sampler: hasten.Sampler, batch: int, rounds: int) -> float:
    """Seconds of a call of ``sample``, the third and later ones."""
    call = functools.partial(sampler.sample, batch, seed=1, condition=0, batch=batch)
    times = [once(call, "cuda") for _ in range(rounds + 2)][2:]
    return sorted(times)[len(times) // 2]


if __name__ == "__main__":
    main()
