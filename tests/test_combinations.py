"""Every combination of parts works, except those in the table of refusals, and a picture does not
depend on its batch-mates in any of them."""

from __future__ import annotations

import dataclasses
import itertools
import random
import re
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
from hasten.core.grid import grids
from hasten.core.learned_program import LearnedProgram
from hasten.core.lever import levers
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
NEEDS_A_FILE = {"quantize", "small", "student"}
PACKAGE_OF_ITS_OWN = {"torchao"}  # tests/levers/test_torchao.py
FOR_PIPELINES = {"prompt-cache", "text-encoder"}  # tests/test_applying.py
FOR_LATENTS = {"decoder", "tiny-decoder"}  # tests/levers/test_decoder.py
FOR_EDITS = {"regions"}  # tests/levers/test_regions_lever.py

WALKS = ["adaptive-ode", "adaptive-sde", "langevin", "ode", "sde"]
U_NET, DIT = ["deep", "encoder"], ["attention", "blocks", "first-block"]
CACHES = [*U_NET, *DIT]
SCHEDULED = [*U_NET, "attention", "blocks"]
MASK = "deep(branch=0, mask=(1, 0, 0))"
OUT_OF_ORDER = ["picard", "anderson", "parareal", "early-exit"]
INTERVAL = (2.0, (0.1, 10.0))
ANOTHER_COUNT = ["heun", "restart"]  # solvers that make other than one evaluation a step
BELOW = ["gaussian", "mixture", "generator", "plan"]  # starts that are not noise

# What is refused, by a part alone or by several that meet, and in which words. A part stands here
# by its name, or with its options where they matter. Whatever is not here works.
REFUSALS: list[tuple[dict[str, list[Any]], str]] = [
    ({"lever": DIT}, "cannot split a UNet2DModel; it splits"),
    ({"lever": ["merge"]}, "has none whose self-attention stands alone; drop merge"),
    (
        {"solver": WALKS, "executor": [*OUT_OF_ORDER, "deadline"]},
        r"executor '.*' runs a Program, and solver '.*' has none; use executor='sequential'",
    ),
    (
        {"solver": WALKS, "lever": [*CACHES, "small"]},
        r"is a column of a program, but solver '.*' has none: its steps depend on the data",
    ),
    (
        {"lever": CACHES, "executor": OUT_OF_ORDER},
        r"keeps something from one evaluation to the next, but executor '.*' evaluates several",
    ),
    (
        {"lever": [MASK, "small"], "solver": ANOTHER_COUNT},
        r"has 3 entries, but the plan makes \d evaluations; give one for each",
    ),
    (
        {"lever": SCHEDULED, "guided": [INTERVAL], "start": ["noise"]},  # others begin within
        "guidance begins at evaluation 2, which takes the cached features of one without",
    ),
    ({"program": ["given"], "start": BELOW}, "was learned for start 'noise', but start is"),
    ({"program": ["given"], "lever": ["student"]}, "was learned for other weights"),
]


def name_of(value: Any) -> Any:
    return value.partition("(")[0] if isinstance(value, str) else value


def expected(values: dict[str, Any]) -> list[str]:
    """The words of every refusal in the table that is about a combination."""
    if values["program"] is not None:  # it decides these
        values = {**values, "program": "given", "solver": None, "grid": None, "clip": None}

    def met(field: str, parts: list[Any]) -> bool:
        return values[field] in parts or name_of(values[field]) in parts

    return [words for sides, words in REFUSALS if all(met(*side) for side in sides.items())]


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
    own = {"solver": "ddim", "grid": "uniform", "steps": STEPS}
    student = str(folder / "student")
    if not (folder / "student").exists():
        kind = {"plans": (own,), "teacher": digest(model), "name": "student"}
        save_folder(dataclasses.replace(model, **kind), folder / "student")
    small = f"small(folder={student!r}, at=(0, 1, 1))"
    skipped = NEEDS_A_FILE | PACKAGE_OF_ITS_OWN | FOR_LATENTS | FOR_PIPELINES | FOR_EDITS
    named_levers = [text for text in named(levers) if name_of(text) not in skipped]
    unknown = set(starts) - set(begin) - {"vae"}  # a vae starts as a generator does
    assert not unknown, f"starts without an example here: {unknown}"
    return {
        "solver": list(named(solvers)),
        "grid": [grid for grid in named(grids) if not grid.startswith("given")],
        "executor": list(named(executors)),
        "start": [text for texts in begin.values() for text in texts],
        "lever": [None, *named_levers, f"student(folder={student!r})", small],
        "clip": [None, 1.0],
        "guided": [(1.0, None), (2.0, None), (2.0, (0.1, 10.0))],
        "program": [None, str(program)],
    }


def made(values: dict[str, Any]) -> Plan:
    values = dict(values)
    values["guidance"], values["guidance_interval"] = values.pop("guided")
    lever = values.pop("lever")
    values["levers"] = () if lever is None else (lever,)
    if values["program"] is not None:
        for name in ("solver", "grid", "clip"):
            values.pop(name)
        return Plan(**values)
    return Plan(**values, steps=STEPS)


def built(model: Model, values: dict[str, Any], nets: dict[Any, Any]) -> Any:
    """The sampler of a combination, with a network of ``nets`` where it is prepared already; None
    where it is refused, as the table says."""
    words, refusal, sampler = expected(values), "", None
    try:
        plan = made(values)
        key = hasten.sampling.network_key(model, plan)
        if key not in nets:
            nets[key] = hasten.sampling.prepare(model, plan)
        sampler = build(model, plan, net=nets[key])
    except UserError as error:
        refusal = str(error)
    assert bool(refusal) == bool(words), f"{values}: the table says {words}, and we {refusal!r}"
    assert not words or any(re.search(line, refusal) for line in words), f"{values}: {refusal}"
    assert "\n" not in refusal
    return sampler


@pytest.mark.parametrize("share", [3, pytest.param(1, marks=pytest.mark.slow)])
def test_every_pair_of_parts_runs_or_is_refused_as_the_table_says(model, choices, share):
    """All of them in `make test-slow`, every third in `make test`."""
    nets: dict[Any, Any] = {}
    ran: dict[str, set[Any]] = {field: set() for field in choices}
    draw = random.Random(0)
    base = {field: values[0] for field, values in choices.items()}
    base |= {"solver": "ddim", "grid": "uniform", "executor": "sequential"}
    tried = 0
    for one, other in itertools.combinations(choices, 2):
        for first, second in itertools.product(choices[one], choices[other]):
            tried += 1
            if tried % share:
                continue
            sampler = built(model, {**base, one: first, other: second}, nets)
            both_ran = first in ran[one] and second in ran[other]
            if sampler is None or (both_ran and draw.random() > 0.1):
                continue
            pictures = sampler.sample(2, seed=3, condition=[0, 1])
            assert pictures.shape == (2, 1, 8, 8), sampler.plan
            assert bool(torch.isfinite(pictures).all()), sampler.plan
            ran[one].add(first)
            ran[other].add(second)
    for field, values in choices.items():
        never = {name_of(value) for value in values if value not in ran[field]}
        assert never == ({*DIT, "merge"} if field == "lever" else set())
    assert tried > 800


def test_every_refusal_in_the_table_happens(model, choices):
    """No line of the table is there for nothing."""
    base = {field: values[0] for field, values in choices.items()}
    base |= {"solver": "ddim", "grid": "uniform", "executor": "sequential"}
    alone = [
        part for sides, _ in REFUSALS if len(sides) == 1 for part in next(iter(sides.values()))
    ]
    given = {"program": [("program", choices["program"][1])]}
    for sides, words in REFUSALS:
        met = [
            given.get(field)
            or [(field, value) for value in choices[field] if {value, name_of(value)} & {*parts}]
            for field, parts in sides.items()
        ]
        assert all(met), words
        for some in itertools.product(*met):
            if len(sides) > 1 and any(name_of(value) in alone for _, value in some):
                continue  # refused by itself
            with pytest.raises(UserError, match=words):
                build(model, made({**base, **dict(some)}))


def test_many_parts_at_once_are_decided_before_anything_runs(model, choices):
    """Three hundred combinations of all fields, drawn at random but always the same."""
    nets: dict[Any, Any] = {}
    draw, counts = random.Random(1), {True: 0, False: 0}
    for _ in range(300):
        values = {field: draw.choice(values) for field, values in choices.items()}
        counts[built(model, values, nets) is None] += 1
    assert min(counts.values()) > 40, counts


# Levers beside each other: which pair is refused follows from what they do, not from who they are.

PAIRS = {
    ("cache", "cache"): "'deep' says which variant .* and 'encoder' says which variant",
    ("cache", "quantize"): "'quantize' is fitted to one whole network, and 'deep' splits",
    ("cache", "small"): "'small' .*, and 'deep' .*; drop one|'deep' .*, and 'small' .*; drop one",
    ("quantize", "small"): "'quantize' is fitted to one whole network, and 'small' runs a second",
    ("student", "student"): "'student' puts another network .* and 'student' puts another",
}


@pytest.mark.parametrize(
    "names",
    [
        *itertools.combinations_with_replacement(
            ("cache", "merge", "quantize", "small", "student"), 2
        )
    ],
    ids="-".join,
)
def test_every_pair_of_levers_is_allowed_or_refused_as_the_table_says(names):
    one = {
        "cache": "deep(branch=0)",
        "merge": "merge(share=0.25)",
        "quantize": "quantize(file='a')",
        "small": "small(folder='a', at=(0, 1))",
        "student": "student(folder='a')",
    }
    other = {**one, "cache": "encoder", "student": "student(folder='b')"}
    levers = [one[names[0]], other[names[1]] if names[0] == names[1] else one[names[1]]]
    if names[0] == names[1] and names[0] not in ("cache", "student"):
        return
    if names in PAIRS:
        with pytest.raises(UserError, match=PAIRS[names]):
            Plan(levers=levers, steps=2)
    else:
        assert len(Plan(levers=levers, steps=2).levers) == 2


# Levers, engines and executors.


def refusals_of(lever: str, engine: str, dtype: str, executor: str) -> list[str]:
    """The words in which a lever, an engine, a dtype and an executor refuse each other."""
    kind, words = engines[engine], []
    if dtype not in kind.dtypes:
        words.append(f"engine '{engine}' computes in {', '.join(kind.dtypes)}; set one of these")
    if "cpu" not in kind.devices:
        words.append(f"engine '{engine}' runs on {', '.join(kind.devices)}, but model")
    if "quantize" in lever and dtype not in kind.beside_integers:
        words.append(f"beside integers engine '{engine}' computes in")
    if lever == "cache" and not executors[name_of(executor)].in_order:
        words.append("keeps something from one evaluation to the next, but executor")
    return words


def pictures_or_none(sampler: hasten.sampling.Sampler, dtype: str) -> torch.Tensor | None:
    """Two pictures; None where this processor has no instructions for ``dtype``."""
    try:
        return sampler.sample(2, seed=3, condition=[0, 1])
    except UserError as error:
        refusal = str(error)
    assert dtype != "float32"
    assert "on this CPU; set dtype=float32" in refusal
    return None


@pytest.fixture
def tried(model, folder, choices) -> dict[str, tuple[str, ...]]:
    """Levers by what they are, alone and together, for ddim in three steps."""
    plain = Plan(solver="ddim", grid="uniform", steps=STEPS)
    files = [folder / name for name in ("w8a8.safetensors", "w8a8-student.safetensors")]
    student, small = choices["lever"][-2:]
    for file, plan in zip(files, (plain, plain.with_lever(student)), strict=True):
        if not file.exists():
            learn_quantize(model, plan, file, n=4)
    return {
        "none": (),
        "cache": ("deep(branch=0)",),
        "quantize": (f"quantize(file={str(files[0])!r})",),
        "student": (student,),
        "student and quantize": (student, f"quantize(file={str(files[1])!r})"),
        "small": (small,),
    }


@pytest.mark.parametrize(
    "engine",
    [pytest.param(name, marks=[pytest.mark.slow] * (name != "eager")) for name in engines],
)
def test_every_lever_meets_every_engine_and_executor(model, tried, engine):
    """Whatever runs makes the pictures that the lever makes in eager float32 in order."""
    plain = Plan(solver="ddim", grid="uniform", steps=STEPS)
    if "cpu" in engines[engine].devices and "float32" not in engines_here()[engine]:
        pytest.skip("not installed")
    in_order = sorted(named(executors), key=lambda name: name != "sequential")
    nets: dict[Any, Any] = {}
    ran = set()
    for lever, texts in tried.items():
        plan = plain.model_copy(update={"levers": texts})
        wanted = build(model, plan).sample(2, seed=3, condition=[0, 1])
        for dtype, executor in itertools.product(("float32", "bfloat16", "float16"), in_order):
            words, refusal = refusals_of(lever, engine, dtype, executor), ""
            way = {"engine": engine, "dtype": dtype, "executor": executor, "levers": texts}
            try:
                plan = plain.model_copy(update=way)
                key = hasten.sampling.network_key(model, plan)
                if key not in nets:
                    nets[key] = hasten.sampling.prepare(model, plan)
                sampler = build(model, plan, net=nets[key])
            except UserError as error:
                refusal = str(error)
            assert bool(refusal) == bool(words), f"{way}: the table says {words}, we {refusal!r}"
            assert not words or any(line in refusal for line in words), f"{way}: {refusal}"
            # Compiling takes minutes: tests/engines does it once. Other runtimes run every lever in
            # float32, and no lever in the other dtypes and executors.
            whole = engine == "eager" or (dtype, executor) == ("float32", "sequential")
            if refusal or engine == "compile" or not (whole or lever == "none"):
                continue
            pictures = pictures_or_none(sampler, dtype)
            if pictures is not None:
                ran.add((lever, name_of(executor)))
                bound = 2e-3 if dtype == "float32" and "quantize" not in lever else 0.05
                assert (pictures - wanted).square().mean().sqrt() < bound, way
    runs_here = engine != "compile" and "cpu" in engines[engine].devices
    assert {executor for _, executor in ran} == (set(executors) if runs_here else set())
    assert {lever for lever, _ in ran} == (set(tried) if runs_here else set())


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
