"""``builtin:shapes`` beside diffusers, the whole request timed.

``python -m benchmarks.text_to_image sweep`` measures prompt accuracy and FD of diffusers'
schedulers at 5 to 50 steps, and goes on where it was ended. ``python -m
benchmarks.text_to_image PLAN...`` then compares plans (files of `hasten tune`, or their text) with
the stock pipeline and with the fastest training-free configuration that is as good: from the prompt
to the picture, batch 1, each in a process of its own and in turn.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

import hasten
from benchmarks.ahead import Contender
from benchmarks.peers.loop import evaluations, sample, start, walks
from benchmarks.peers.schedulers import Config, available
from benchmarks.results_io import exists, read, write
from hasten.adapters.prompted import with_prompts
from hasten.core.artifact import ASSETS
from hasten.core.condition import NULL, Condition
from hasten.core.model import Model
from hasten.data.drawn import Shapes
from hasten.measuring.frechet import frechet, statistics
from hasten.measuring.measure import pictures_of
from hasten.measuring.memory import peak_mb
from hasten.measuring.precision_recall import precision_recall
from hasten.measuring.prompts import prompt_accuracy
from hasten.measuring.real import real_for
from hasten.measuring.timer import once
from hasten.sampling import prepare

NAME = "builtin:shapes"
FOLDER = ASSETS / "shapes"
PEERS = "text_to_image_peers"
STOCK = {"scheduler": "PNDMScheduler", "steps": 50}
USUAL = {"scheduler": "DPMSolverMultistepScheduler", "steps": 20}
STEPS = (5, 6, 8, 10, 15, 20, 30, 50)
SCREEN, FULL, ROUNDS, SAME = 200, 1000, 15, 1.05
HELD_OUT = 3  # seed of the scenes whose captions are the prompts
Row = dict[str, Any]


def prompts(n: int) -> list[str]:
    """Captions of scenes that nothing was trained on."""
    return Shapes(count=n, seed=HELD_OUT).captions(np.arange(n))


def model_for(n: int) -> Model:
    """The model with a label for each of ``n`` prompts."""
    return with_prompts(hasten.load(NAME), prompts(n))


def guidance() -> float:
    """That of the model's own plan."""
    return float(hasten.load(NAME).plan["guidance"])  # type: ignore[arg-type]


class Sweep:
    """Prompt accuracy, FD and recall of diffusers' schedulers, in their plain loop with
    classifier-free guidance."""

    def __init__(self, n: int) -> None:
        self.n, self.model, self.scale = n, model_for(n), guidance()
        self.net = prepare(self.model, hasten.Plan(engine="openvino"))
        self.real = real_for(self.model)
        assert self.real is not None

    def guided(self, x: torch.Tensor, t: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The network's answer with guidance, as a pipeline combines it."""
        null = Condition.labels_of(labels, self.model.null_label).branch(NULL)
        both = Condition.cat([Condition.labels_of(labels), null])
        answer = self.net(torch.cat([x, x]), torch.cat([t, t]), both)
        assert isinstance(answer, torch.Tensor)
        conditional, unconditional = answer.chunk(2)
        return unconditional + self.scale * (conditional - unconditional)

    def row(self, config: Config, steps: int, batch: int = 50) -> Row:
        """What ``config`` gives in ``steps`` steps."""
        known = {"config": config.name, "scheduler": config.scheduler, "steps": steps, "n": self.n}
        config = dataclasses.replace(
            config, options={**config.options, "prediction_type": "v_prediction"}
        )
        parts, noise = [], start(self.model, self.n)
        try:
            known["evaluations"] = evaluations(config, steps)
            for begin in range(0, self.n, batch):
                some = range(begin, min(begin + batch, self.n))
                labels = torch.tensor(some)
                x = sample(self.guided, self.model, config, steps, noise[some], labels, walks(some))
                parts.append(self.model.codec.decode(x.float()))
            return known | self.quality(torch.cat(parts))
        except Exception as error:  # a sweep outlives what one scheduler cannot do
            return known | {"error": f"{type(error).__name__}: {str(error)[:160]}"}

    def quality(self, pictures: torch.Tensor) -> Row:
        """Prompt accuracy with its parts, FD and recall."""
        assert self.real is not None
        met = prompt_accuracy(pictures, self.model.prompts[: len(pictures)])
        features = self.real.features(pictures)
        fd = frechet(*statistics(features), self.real.mean, self.real.covariance)
        out: Row = {"prompt_accuracy": met.share.value, "parts": met.parts, "fd": fd}
        if self.real.sample is not None:
            out["recall"] = precision_recall(features, self.real.sample)[1].value
        return out


def configs() -> list[Config]:
    """Those that make sense in latents: nothing is clipped to pixels."""
    return [one for one in available() if "clipped" not in one.name and not one.distilled]


def sweep(n: int = SCREEN) -> None:
    """Measure every configuration at every number of steps; a line a row in runs/."""
    bench = Sweep(n)
    file = Path("runs/peers") / f"shapes-{bench.model.sha256[:8]}-n{n}.jsonl"
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    done = {(row["config"], row["steps"]): row for row in map(json.loads, lines)}
    rows = []
    for steps in STEPS:
        for config in configs():
            row = done.get((config.name, steps))
            if row is None:
                row = bench.row(config, steps)
                with file.open("a", encoding="utf-8") as out:
                    out.write(json.dumps(row) + "\n")
                print(row, file=sys.stderr, flush=True)
            rows.append(row)
    what = f"prompt accuracy, FD and recall of diffusers' schedulers on {NAME}, n = {n}"
    write(PEERS, what, rows)


def measured(plan: hasten.Plan, n: int = FULL) -> Row:
    """The quality of ``plan``."""
    bench = Sweep(n)
    return bench.quality(pictures_of(hasten.build(bench.model, plan), n))


def as_good(row: Row, wanted: Row) -> bool:
    """Whether a configuration reaches the quality of a plan."""
    if "error" in row:
        return False
    met = row["prompt_accuracy"] >= wanted["prompt_accuracy"]
    return met and row["fd"] <= SAME * wanted["fd"]


# What is timed: a request, from a prompt that was not seen before to the picture.


def pipeline(config: Row, compiled: bool) -> Callable[[str, int], object]:
    """The pipeline of diffusers with one of its schedulers."""
    import diffusers

    pipe: Any = diffusers.DiffusionPipeline.from_pretrained(FOLDER)
    pipe.set_progress_bar_config(disable=True)
    known = [one for one in configs() if one.name == config.get("config")]
    options = {**known[0].options} if known else {}
    kind = getattr(diffusers, config["scheduler"])
    pipe.scheduler = kind.from_config(pipe.scheduler.config, **options)
    if compiled:
        pipe.unet = torch.compile(pipe.unet, dynamic=False)
    scale = guidance()

    def request(prompt: str, seed: int) -> object:
        generator = torch.Generator().manual_seed(seed)
        return pipe(
            prompt,
            num_inference_steps=config["steps"],
            guidance_scale=scale,
            generator=generator,
        ).images

    return request


def carried(plan: hasten.Plan) -> hasten.Plan:
    """``plan`` as a float32 pipeline takes it: an engine outside torch runs it in float32."""
    outside = plan.parts.engine.own_threads
    return plan.model_copy(update={"dtype": "float32"}) if outside else plan


def applied(plan: str) -> Callable[[str, int], object]:
    """The pipeline with a plan on it."""
    import diffusers

    pipe: Any = diffusers.DiffusionPipeline.from_pretrained(FOLDER)
    pipe.set_progress_bar_config(disable=True)
    hasten.apply(pipe, carried(hasten.Plan.read(plan)))
    return lambda prompt, seed: pipe(prompt, generator=torch.Generator().manual_seed(seed)).images


def sampled(plan: str) -> Callable[[str, int], object]:
    """hasten's own sampler."""
    sampler = hasten.build(hasten.load(NAME), plan)
    return lambda prompt, seed: sampler.pil(1, seed=seed, condition=prompt)


def request_of(spec: Row) -> Callable[[str, int], object]:
    if spec["side"] == "diffusers":
        return pipeline(spec, spec["engine"] == "compile")
    return (applied if spec["side"] == "hasten, applied" else sampled)(spec["plan"])


def contend() -> None:
    """A contender's process: a line in is a request, a line out its seconds and peak megabytes."""
    request, asked = request_of(json.loads(sys.stdin.readline())), prompts(FULL)
    for number, _ in enumerate(sys.stdin):
        print(once(functools.partial(request, asked[number], number)), peak_mb(), flush=True)


def raced(specs: Sequence[Row], rounds: int = ROUNDS) -> list[Row]:
    """Milliseconds of a request of each of ``specs``, in turn."""
    started = [Contender(spec, "benchmarks.text_to_image") for spec in specs]
    try:
        contenders = [one for one in started if one.warms()]
        for number in range(rounds):
            for contender in contenders if number % 2 else contenders[::-1]:
                contender.seconds.append(contender.run())
    finally:
        for contender in started:
            contender.close()
    return [contender.row() for contender in contenders]


def main(plans: Sequence[str], n: int = FULL) -> None:
    """Compare ``plans`` with the stock pipeline, with what is usually recommended in its place, and
    with the best training-free configurations of the sweep, where it was made."""
    chosen = [hasten.Plan.read(text) for text in plans]
    quality = [measured(plan, n) for plan in chosen]
    bench = Sweep(n)
    specs: list[Row] = []
    for known in (STOCK, USUAL):
        config = Config(name="", scheduler=known["scheduler"])
        row = bench.row(config, known["steps"])
        specs.append({"side": "diffusers", "engine": "eager", **row, "config": "", "pictures": n})
    peers = read(PEERS)["rows"] if exists(PEERS) else []
    for wanted in quality:
        able = [row for row in peers if as_good(row, wanted)]
        for best in sorted(able, key=lambda row: row["evaluations"])[:1]:
            specs += [{"side": "diffusers", **best, "engine": how} for how in ("eager", "compile")]
    for plan, row in zip(chosen, quality, strict=True):
        known = {"plan": str(plan), "pictures": n}
        inside = row if carried(plan) == plan else measured(carried(plan), n)
        specs += [
            {"side": "hasten", **known, **row},
            {"side": "hasten, applied", **known, **inside},
        ]
    rows = raced([spec for place, spec in enumerate(specs) if spec not in specs[:place]])
    for row in rows:
        row["times_faster_than_stock"] = rows[0]["median"] / row["median"]
    write("text_to_image", f"a request of {NAME}, from prompt to picture, batch 1", rows)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["contend"]:
            contend()
        case ["sweep", *count]:
            sweep(*map(int, count))
        case arguments:
            main(arguments)
