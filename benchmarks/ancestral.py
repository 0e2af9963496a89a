"""1000 ancestral steps in hasten and in diffusers: is the distribution of pictures the same?

A long run, resumable: ``python -m benchmarks.ancestral make hasten`` and ``... make diffusers``,
each on one thread so that both may run side by side, write pictures under results/ancestral; then
``python -m benchmarks.ancestral`` compares them. Both call the same OpenVINO network, and draw
different noise: the interval is that of two independent samples.
"""

from __future__ import annotations

import dataclasses
import math
import sys
from pathlib import Path
from typing import Any

import diffusers
import torch
from safetensors.torch import load_file, save_file

import hasten
from benchmarks.results_io import write
from hasten.core.random_streams import generator
from hasten.measuring.quality import quality
from hasten.measuring.real import real_for
from hasten.sampling import prepare

N, CHUNK, STEPS = 2000, 50, 1000
FOLDER = Path(__file__).parent / "results" / "ancestral"
PLAN = hasten.Plan(
    solver="ddpm",
    grid="uniform(spacing='leading')",
    steps=STEPS,
    engine="openvino",
    dtype="bfloat16",
)
SIDES = {"hasten": 11, "diffusers": 12}  # and their seeds


def make(side: str) -> None:
    """The pictures of one side, a file for each CHUNK of them."""
    torch.set_num_threads(1)
    model = hasten.load("builtin:mnist")
    net = prepare(model, PLAN)
    FOLDER.mkdir(parents=True, exist_ok=True)
    for first in range(0, N, CHUNK):
        file = FOLDER / f"{side}-{first:05d}.safetensors"
        if file.exists():
            continue
        labels = [index % 10 for index in range(first, first + CHUNK)]
        if side == "hasten":
            sampler = hasten.build(model, PLAN, net=net)
            pictures = sampler.sample(
                CHUNK, seed=SIDES[side], first=first, condition=labels, batch=CHUNK
            )
        else:
            pictures = theirs(model, net, first, labels)
        beside = file.with_suffix(".tmp")
        save_file({"pictures": (pictures * 255).round().to(torch.uint8)}, str(beside))
        beside.replace(file)
        print(side, first + CHUNK, flush=True)


@torch.inference_mode()
def theirs(model: hasten.Model, net: object, first: int, labels: list[int]) -> torch.Tensor:
    """diffusers' loop over its DDPMScheduler."""
    scheduler = diffusers.DDPMScheduler(num_train_timesteps=1000, clip_sample=False)
    scheduler.set_timesteps(STEPS)
    draws = [generator(SIDES["diffusers"], first + index) for index in range(CHUNK)]
    x = torch.stack([torch.randn(model.shape, generator=one) for one in draws])
    condition = torch.tensor(labels)
    for t in scheduler.timesteps:
        answer = net(x, t.expand(CHUNK).float(), condition)  # type: ignore[operator]
        x = scheduler.step(answer, t, x, generator=draws).prev_sample
    return model.codec.decode(x)


def pictures(side: str) -> torch.Tensor:
    """(N, c, h, w) in [0, 1]."""
    files = sorted(FOLDER.glob(f"{side}-*.safetensors"))
    return torch.cat([load_file(str(file))["pictures"] for file in files])[:N].float() / 255


def compared() -> list[dict[str, Any]]:
    """FD, KD, precision and recall of both sides, and of their difference."""
    model = hasten.load("builtin:mnist")
    real = real_for(model)
    assert real is not None
    found = {side: quality(pictures(side), real) for side in SIDES}
    rows = []
    for name in ("fd", "kd", "precision", "recall"):
        one, other = (getattr(found[side], name) for side in SIDES)
        half = math.hypot((one.high - one.low) / 2, (other.high - other.low) / 2)
        rows.append(
            {
                "what": name,
                **{side: dataclasses.asdict(getattr(found[side], name)) for side in SIDES},
                "difference": one.value - other.value,
                "interval": half,
                "equal": abs(one.value - other.value) <= half,
            }
        )
    return rows


def main() -> None:
    have = {side: len(list(FOLDER.glob(f"{side}-*.safetensors"))) * CHUNK for side in SIDES}
    if min(have.values()) < N:
        sys.exit(f"pictures are missing, have {have} of {N}: run make for each side first")
    what = (
        f"{STEPS} ancestral steps of hasten and of diffusers, n = {N}, {PLAN.engine} {PLAN.dtype}"
    )
    write("ancestral", what, compared())


if __name__ == "__main__":
    make(sys.argv[2]) if sys.argv[1:2] == ["make"] else main()
