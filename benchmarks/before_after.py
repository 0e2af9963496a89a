"""The pictures of README: ``python -m benchmarks.before_after``.

Ten digits by the published sampler and by the plan of the table ``headline``; ten pictures of
CIFAR-10's model, converged, by EDM's own sampler and by iPNDM. Seed 0, not selected.
"""

from __future__ import annotations

from pathlib import Path

import torch

import hasten
from benchmarks.results_io import read
from hasten.media.pictures import grid, save_png

IMAGES = Path(__file__).parents[1] / "docs" / "images"
PUBLISHED = "solver=ddpm,grid=uniform(spacing='leading'),steps=1000"


CIFAR10 = (
    "solver=dpmpp(order=3),grid=log-snr,steps=60,engine=openvino",
    "solver=heun,grid=karras,steps=5,clip=1.0,engine=openvino",
    "solver=ipndm,grid=karras,steps=8,clip=1.0,engine=openvino",
)


def main() -> None:
    """Write docs/images/before.png, after.png and cifar10.png."""
    natural = hasten.load(Path(__file__).parents[1] / "models" / "cifar10")
    rows = [
        hasten.build(natural, plan).sample(10, seed=0, condition=list(range(10)))
        for plan in CIFAR10
    ]
    facts = {
        "model": natural.name,
        "sha256": natural.sha256,
        "seed": 0,
        "plans": "; ".join(CIFAR10),
    }
    save_png(grid(torch.cat(rows), 10), IMAGES / "cifar10.png", facts, 2)
    model = hasten.load("builtin:mnist")
    row = next(row for row in read("training_free")["rows"] if row["batch"] == 1)
    for name, plan in (("before", PUBLISHED), ("after", row["plan"])):
        pictures = hasten.build(model, plan).sample(10, seed=0, condition=list(range(10)))
        facts = {"model": model.name, "sha256": model.sha256, "seed": 0, "plan": plan}
        save_png(grid(pictures, 10), IMAGES / f"{name}.png", facts, 3)


if __name__ == "__main__":
    main()
