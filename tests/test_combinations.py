"""Every combination of parts either runs or is refused with a reason, and a picture does not depend
on its batch-mates in any of them."""

from __future__ import annotations

import dataclasses
import itertools
import random
from collections.abc import Iterator
from typing import Any

import pytest
import torch

import hasten
from hasten import Plan, build
from hasten.adapters.folder import save_folder
from hasten.core.artifact import digest
from hasten.core.engine import engines
from hasten.core.errors import UserError
from hasten.core.executor import executors
from hasten.core.feature_cache import reuses
from hasten.core.grid import grids
from hasten.core.learned_program import LearnedProgram
from hasten.core.model import Model
from hasten.core.solver import solvers
from hasten.core.start import starts
from hasten.learning.compression.quantize import learn_quantize
from hasten.learning.starts.starts import learn_start
from hasten.media.pictures import save_png
from hasten.sampling import engines_here

STEPS = 3
OPTIONS: dict[str, list[str]] = {
    "given": ["given(at=(999.0, 500.0, 20.0))"],
    "bezier": ["bezier(points=(0.3, 0.6))"],
    "ddim": ["ddim", "ddim(eta=1.0)"],
    "dpmpp": ["dpmpp(order=3)", "dpmpp(order=2, singlestep=True)"],
    "ode": ["ode(method='rk4')"],
    "parareal": ["parareal(blocks=2)"],
    "deep": ["deep(branch=1)", "deep(branch=0, mask=(1, 0, 0))"],
    "deadline": ["deadline(ms=100000)"],
    "early-exit": ["early-exit(tolerance=0.05)"],
}  # the rest is named without options


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("combinations")


@pytest.fixture
def model(tiny_model) -> Model:
    return tiny_model(labels=2)


def named(registry: Any) -> Iterator[str]:
    """Every registered part, by name and with the options above."""
    for name in registry:
        yield from OPTIONS.get(name, [name])


@pytest.fixture
def choices(model, folder) -> dict[str, list[Any]]:
    """Every value of every field that can meet another; starts get files of their own."""
    files = {kind: folder / f"{kind}.safetensors" for kind in ("gaussian", "mixture")}
    for kind, file in files.items():
        if not file.exists():
            learn_start(model, kind, file, n=60)
    for label, number in itertools.product(range(2), range(10)):
        file = folder / "pictures" / str(label) / f"{number}.png"
        if not file.exists():
            save_png(torch.full((1, 8, 8), 0.1 * number), file, {})
    program = folder / "program.json"
    table = Plan(solver="ddim", grid="uniform", steps=STEPS).trace(model.schedule)
    LearnedProgram(program=table, weights=digest(model), model=model.name).write(program)
    begin = {
        "noise": ["noise"],
        "gaussian": [f"gaussian(file={str(files['gaussian'])!r}, ratio=5.0)"],
        "mixture": [f"mixture(file={str(files['mixture'])!r}, ratio=5.0, steps=2)"],
        "generator": [f"generator(source={str(folder / 'pictures')!r}, ratio=5.0)"],
        "plan": ["plan(plan='solver=ddim,grid=uniform,steps=2', ratio=2.0)"],
    }
    unknown = set(starts) - set(begin) - {"vae"}  # a vae starts as a generator does
    assert not unknown, f"starts without an example here: {unknown}"
    return {
        "solver": list(named(solvers)),
        "grid": [grid for grid in named(grids) if not grid.startswith("given")],
        "executor": list(named(executors)),
        "start": [text for texts in begin.values() for text in texts],
        "reuse": [None, *named(reuses)],
        "clip": [None, 1.0],
        "guided": [(1.0, None), (2.0, None), (2.0, (0.1, 10.0))],
        "program": [None, str(program)],
    }


def made(values: dict[str, Any]) -> Plan:
    values = dict(values)
    values["guidance"], values["guidance_interval"] = values.pop("guided")
    if values["program"] is not None:
        for name in ("solver", "grid", "clip"):
            values.pop(name)
        return Plan(**values)
    return Plan(**values, steps=STEPS)


def refused(error: UserError) -> None:
    """A refusal is one line that says what to do."""
    text = str(error)
    assert "\n" not in text
    assert len(text) > 30
    assert text.rstrip().endswith((".", ")"))


def test_every_pair_of_parts_runs_or_is_refused(model, choices):
    fields = list(choices)
    nets: dict[Any, Any] = {}
    ran: dict[str, set[Any]] = {field: set() for field in fields}
    draw = random.Random(0)
    base = {field: choices[field][0] for field in fields}
    plain = {"solver": "ddim", "grid": "uniform"}
    tried = 0
    for one, other in itertools.combinations(fields, 2):
        for first, second in itertools.product(choices[one], choices[other]):
            values = {**base, **plain, one: first, other: second}
            tried += 1
            try:
                plan = made(values)
                key = plan.network
                if key not in nets:
                    nets[key] = hasten.sampling.prepare(model, plan)
                sampler = build(model, plan, net=nets[key])
                if draw.random() > 0.3 and first in ran[one] and second in ran[other]:
                    continue
                pictures = sampler.sample(2, seed=3, condition=[0, 1])
            except UserError as error:
                refused(error)
                continue
            assert pictures.shape == (2, 1, 8, 8), plan
            assert bool(torch.isfinite(pictures).all()), plan
            ran[one].add(first)
            ran[other].add(second)
    for field in fields:
        # DiT's parts do not split a U-Net; all else runs in some combination.
        never = {str(value).split("(")[0] for value in choices[field] if value not in ran[field]}
        assert never <= {"attention", "blocks", "first-block"}, (field, never)
    assert tried > 800


def test_a_student_meets_every_value_of_every_other_part(model, choices, folder):
    """A student's network stands in for the model's; a program learned for the model is not its
    own, and is refused."""
    own = {"solver": "ddim", "grid": "uniform", "steps": 2}
    student = dataclasses.replace(model, plans=(own,), teacher=digest(model), name="student")
    save_folder(student, folder / "student")
    plain = {"solver": "ddim", "grid": "uniform", "executor": "sequential", "start": "noise"}
    plain |= {"reuse": None, "clip": None, "guided": (1.0, None), "program": None}
    ran = 0
    for field, values in choices.items():
        for value in values:
            try:
                plan = made({**plain, "student": str(folder / "student"), field: value})
                pictures = build(model, plan).sample(2, seed=3, condition=[0, 1])
            except UserError as error:
                refused(error)
                continue
            ran += 1
            assert bool(torch.isfinite(pictures).all()), plan
    assert ran > 30
    assert Plan(student=str(folder / "student")).steps == 2


def test_every_lever_meets_every_engine_and_executor(model, folder):
    """Whatever runs makes the pictures that the lever makes in eager float32 in order."""
    own = {"solver": "ddim", "grid": "uniform", "steps": STEPS}
    plain, files = Plan(**own), [folder / name for name in ("w8a8.safetensors", "w8a8-student")]
    student = dataclasses.replace(model, plans=(own,), teacher=digest(model), name="student")
    save_folder(student, folder / "student")
    with_student = plain.model_copy(update={"student": str(folder / "student")})
    learn_quantize(model, plain, files[0], n=4)
    learn_quantize(model, with_student, files[1], n=4)
    levers: dict[str, dict[str, Any]] = {
        "none": {},
        "reuse": {"reuse": "deep(branch=0)"},
        "quantize": {"quantize": str(files[0])},
        "student": {"student": str(folder / "student")},
        "both": {"student": str(folder / "student"), "quantize": str(files[1])},
        "small": {"small": str(folder / "student"), "small_at": (0, 1, 1)},
        "quantize and reuse": {"quantize": str(files[0]), "reuse": "deep(branch=0)"},
    }
    ways = itertools.product(engines, ("float32", "bfloat16", "float16"))
    nets: dict[Any, Any] = {}
    ran, wanted = set(), {}
    for (engine, dtype), (lever, fields), executor in itertools.product(
        sorted(ways, key=lambda way: way != ("eager", "float32")),
        levers.items(),
        sorted(named(executors), key=lambda name: name != "sequential"),
    ):
        try:
            way = {"engine": engine, "dtype": dtype, "executor": executor}
            plan = plain.model_copy(update={**fields, **way})
            if plan.network not in nets:
                nets[plan.network] = hasten.sampling.prepare(model, plan)
            sampler = build(model, plan, net=nets[plan.network])
            if engine == "compile":  # minutes of compilation; tests/test_engines.py does one
                continue
            pictures = sampler.sample(2, seed=3, condition=[0, 1])
        except UserError as error:
            refused(error)
            continue
        ran.add((lever, engine, executor.partition("(")[0]))
        first = wanted.setdefault(lever, pictures)
        bound = 2e-3 if dtype == "float32" and "quantize" not in fields else 0.05
        assert (pictures - first).square().mean().sqrt() < bound, plan
    here = [name for name, what in engines_here().items() if "float32" in what]
    for engine in set(here) - {"compile"}:
        for lever in set(levers) - {"quantize and reuse"}:
            assert lever == "reuse" or (lever, engine, "sequential") in ran
    assert {executor for _, _, executor in ran} == set(executors)
    assert not any(lever == "quantize and reuse" for lever, _, _ in ran)


def test_every_combination_of_kinds_is_decided_before_anything_runs(model, choices):
    kinds = {
        "solver": ["ddim", "ddpm", "heun", "adaptive-ode", "langevin"],
        "grid": ["uniform"],
        **{field: choices[field] for field in ("executor", "start", "reuse", "guided", "program")},
        "clip": [None, 1.0],
    }
    nets: dict[Any, Any] = {}
    counts = {"built": 0, "refused": 0}
    for values in itertools.product(*kinds.values()):
        try:
            plan = made(dict(zip(kinds, values, strict=True)))
            if plan.network not in nets:
                nets[plan.network] = hasten.sampling.prepare(model, plan)
            build(model, plan, net=nets[plan.network])
            counts["built"] += 1
        except UserError as error:
            refused(error)
            counts["refused"] += 1
    assert min(counts.values()) > 100, counts


@pytest.mark.parametrize(
    "executor", ["sequential", "picard", "anderson", "early-exit(tolerance=0.05)"]
)
@pytest.mark.parametrize("start", range(5))
def test_a_picture_is_the_same_in_any_company(model, choices, start, executor):
    plan = Plan(
        solver="ddim(eta=0.5)",
        grid="uniform",
        steps=STEPS,
        executor=executor,
        start=choices["start"][start],
        guidance=2.0,
    )
    sampler = build(model, plan)
    together = sampler.sample(4, seed=7, condition=[0, 1, 0, 1])
    alone = dataclasses.replace(sampler).sample(1, seed=7, first=2, condition=0)
    # Other batch sizes run other kernels; the parallel executors settle within their tolerance.
    assert (together[2] - alone[0]).abs().max() < 5e-3
