"""What works on every family of diffusers pipelines: ``python -m benchmarks.families``.

Tiny pipelines of the real classes with random weights (tests/zoo.py): mechanics, not
quality. For each: how far the latents and pictures of the captured model are from the pipeline's
own, whether apply and undo leave the pipeline bit-equal, and what engines, quantization, learned
programs and measuring say, or the line with which they refuse.
"""

from __future__ import annotations

import copy
import dataclasses
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import hasten
from benchmarks.results_io import read, write
from hasten.adapters.scheduler import ProgramScheduler
from hasten.learning.compression.quantize import learn_quantize
from hasten.learning.programs.fit import FitOptions
from hasten.learning.programs.program import learn_program
from hasten.learning.programs.reference_pairs import ReferenceOptions
from hasten.measuring.measure import measure

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from zoo import ZOO, built  # pyright: ignore[reportMissingImports]

PLAN = hasten.Plan(solver="dpmpp(order=2)", grid="uniform", steps=4)
SINGLE = hasten.Plan(solver="ddim", grid="uniform", steps=4)  # which may begin at a later step
LINEAR = {  # guidance of one scale, where a pipeline's own is more
    "qwen-image": {"true_cfg_scale": 1.0},
}
BEGINS = ("sd-img2img", "sdxl-img2img", "flux-img2img")  # from a picture
Row = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Subject:
    """A pipeline, its call, and what was captured of it."""

    name: str
    pipe: Any
    call: dict[str, Any]
    prompts: list[Any] | None
    model: hasten.Model
    plan: hasten.Plan


class Watched(ProgramScheduler):
    """Notes the first sample and the last one."""

    def step(self, model_output: Any, timestep: Any, sample: Any, **options: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        out = super().step(model_output, timestep, sample, **options)
        if self.step_index == 1:
            self.first = sample.clone()
        self.last = (out[0] if isinstance(out, tuple) else out.prev_sample).clone()
        return out


def subject(name: str) -> Subject:
    pipe = built(name)
    pipe.set_progress_bar_config(disable=True)
    call = {**ZOO[name].call, **LINEAR.get(name, {})}
    named = "class_labels" if "class_labels" in call else "prompt"
    prompts = call.pop(named, None)
    prompts = [prompts] if isinstance(prompts, (str, int)) else prompts
    named_so = {"negative" if key == "negative_prompt" else key: call[key] for key in call}
    model = hasten.load(pipe, prompts=prompts, **(named_so if prompts else {}))
    plan = (SINGLE if name in BEGINS else PLAN).model_copy(update=dict(model.plan))
    if prompts is not None:
        call[named] = prompts
    return Subject(name, pipe, call, prompts, model, plan)


def drawn(it: Subject, **options: Any) -> np.ndarray:
    call = {**copy.deepcopy(it.call), **options, "output_type": "np"}
    out = it.pipe(**call, generator=torch.Generator().manual_seed(0))
    return np.asarray(out.frames if hasattr(out, "frames") else out.images)


def captured(it: Subject) -> Row:
    """How far the captured model's latents (relative) and pictures (largest difference) are from
    the pipeline's own."""
    if it.name in BEGINS:
        return {"latents": None, "pictures": None}
    program = hasten.trace(it.plan, it.model.schedule)
    before = it.pipe.scheduler
    it.pipe.scheduler = scheduler = Watched(program, like=before)
    wanted = drawn(it, num_inference_steps=program.evaluations)
    it.pipe.scheduler = before
    n = 1 if it.prompts is None else len(it.prompts)
    noise = scheduler.first[:n].float() / program.start.spread
    condition = None if it.model.labels is None else list(range(n))
    sampler = hasten.build(it.model, it.plan)
    raw = sampler.sample(noise=noise, condition=condition, raw=True)
    shown = np.moveaxis(sampler.sample(noise=noise, condition=condition).numpy(), -3, -1)
    last = scheduler.last[:n]
    return {
        "latents": float((raw - last).norm() / last.norm()),
        "pictures": float(np.abs(shown - wanted).max()),
    }


def applied(it: Subject) -> Row:
    """Whether the pipeline draws the same bits after apply and undo."""
    stock = drawn(it, num_inference_steps=3)
    hasten.apply(it.pipe, it.plan)
    planned = drawn(it)
    hasten.undo(it.pipe)
    again = drawn(it, num_inference_steps=3)
    return {
        "finite": bool(np.isfinite(planned).all()),
        "undone": bool(np.array_equal(stock, again)),
    }


def in_openvino(it: Subject) -> Row:
    """How far OpenVINO's latents are from eager's, relative."""
    noise = torch.randn(1, *it.model.shape, generator=torch.Generator().manual_seed(1))
    condition = None if it.model.labels is None else [0]
    both = [
        hasten.build(it.model, it.plan.model_copy(update={"engine": engine})).sample(
            noise=noise, condition=condition, raw=True
        )
        for engine in ("eager", "openvino")
    ]
    return {"openvino": float((both[0] - both[1]).norm() / both[0].norm())}


def quantized(it: Subject) -> Row:
    with tempfile.TemporaryDirectory() as folder:
        found = learn_quantize(it.model, it.plan, Path(folder) / "w8a8.safetensors", n=2)
    return {"quantize": f"{len(found.bits)} layers"}


def learned(it: Subject) -> Row:
    options = FitOptions(steps=2, batch=2)
    guidance = it.model.plan.get("guidance", 1.0)
    references = ReferenceOptions(pairs=8, held_out=8, teacher_steps=10, guidance=guidance)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "3.json"
        learn_program(it.model, 3, file, references=references, options=options)
    return {"learn program": "yes"}


def measured(it: Subject) -> Row:
    plan = it.plan
    report = measure(it.model, plan, n=1, pictures=0, batch=1, seconds=0.0)
    return {"measure": None if report.ode_error is None else report.ode_error.rmse}


PARTS: dict[str, Callable[[Subject], Row]] = {
    "captured": captured,
    "applied": applied,
    "openvino": in_openvino,
    "quantize": quantized,
    "learn program": learned,
    "measure": measured,
}


def row(name: str) -> Row:
    out: Row = {"family": name}
    try:
        it = subject(name)
    except hasten.UserError as error:
        return out | {"refused": str(error)}
    out |= {"pipeline": type(it.pipe).__name__, "shape": list(it.model.shape)}
    out |= {"guidance": it.model.plan.get("guidance"), "predicts": it.model.prediction.part_name}
    for part, tried in PARTS.items():
        try:
            out |= tried(it)
        except hasten.UserError as error:
            out[part] = str(error)
    return out


def main(names: tuple[str, ...] = ()) -> None:
    """Every family, or the ``names`` anew in the place of their rows."""
    before = {each["family"]: each for each in read("families")["rows"]} if names else {}
    rows = [row(name) if name in (names or ZOO) else before[name] for name in ZOO]
    write("families", "tiny pipelines of the real classes, random weights, float32", rows)


if __name__ == "__main__":
    main(tuple(sys.argv[1:]))
