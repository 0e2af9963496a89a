"""Executors that stop early: each picture for itself when it has settled, all when time is over."""

from __future__ import annotations

import itertools
import types

import pytest
import torch

import hasten
from conftest import session_of
from hasten import Plan, build
from hasten.core.errors import UserError
from hasten.core.executor import executors
from hasten.core.program import Program
from hasten.executors import deadline

CLOSE = 1e-4  # other batch sizes run other kernels: float32 sums in another order


def answers_of(sampler, **given) -> list[torch.Tensor]:
    """The x0 after every network call of a run."""
    seen: list[torch.Tensor] = []
    sampler.sample(**given, raw=True, watch=lambda call, x0: seen.append(x0.clone()))
    return seen


@pytest.mark.parametrize("solver", ["dpmpp(order=2)", "ddpm", "restart"])
def test_settled_pictures_are_what_they_were_and_the_others_go_on(tiny_model, solver):
    model, condition = tiny_model(labels=3), [0, 1, 2, 0, 1, 2]
    given = {"n": 6, "seed": 2, "condition": condition}
    plan = Plan(solver=solver, steps=8, clip=1.0)
    whole = build(model, plan).sample(**given, raw=True)
    answers = [x0.clamp(-1, 1) for x0 in answers_of(build(model, plan), **given)]
    apart = [
        (x0 - before).square().mean(dim=(1, 2, 3)).sqrt()
        for before, x0 in itertools.pairwise(answers)
    ]
    tolerance = float(torch.stack(apart[2:-1]).median())
    text = f"early-exit(tolerance={tolerance!r}, least=4, below=1e9)"
    sampler = build(model, plan.model_copy(update={"executor": text}))
    found = sampler.sample(**given, raw=True)
    ended = 0
    for i in range(6):
        want = whole[i]
        for number, moved in enumerate(apart, start=2):
            if number >= 4 and moved[i] < tolerance:
                want, ended = answers[number - 1][i], ended + 1
                break
        assert (found[i] - want).abs().max() < CLOSE * max(1, float(want.abs().max()))
    assert ended > 0
    assert sampler.evaluations is None
    alone = [
        sampler.sample(1, seed=2, first=i, condition=condition[i], raw=True)[0] for i in range(6)
    ]
    assert (torch.stack(alone) - found).abs().max() < CLOSE * max(1, float(found.abs().max()))


def test_a_tolerance_that_nothing_meets_is_the_sequential_run(tiny_model):
    model = tiny_model()
    noise = torch.randn(3, 1, 8, 8)

    def made(executor):
        return build(model, Plan(steps=6, executor=executor)).sample(noise=noise, raw=True)

    assert torch.equal(made("early-exit(tolerance=1e-9)"), made("sequential"))
    assert torch.equal(made("deadline(ms=1e6)"), made("sequential"))


def test_a_picture_does_not_end_where_nothing_is_to_be_seen_yet(tiny_model):
    model, calls = tiny_model(), []
    for below in (1e9, 2.0):
        plan = Plan(steps=40, executor=f"early-exit(tolerance=1000.0, below={below})")
        calls.append(len(answers_of(build(model, plan), n=2)))
    levels = plan.levels(model.schedule)
    first = next(i for i, level in enumerate(levels) if level.ratio <= 2.0)
    assert calls == [2, first + 1]


def test_the_deadline_ends_after_the_call_that_passes_it(tiny_model, monkeypatch):
    model, calls, now = tiny_model(), [], [5.0]
    clock = types.SimpleNamespace(monotonic=lambda: now[0])
    monkeypatch.setattr(deadline, "time", clock)

    def watch(call, x0):
        calls.append(x0)
        now[0] += 0.03

    plan = Plan(solver="ddim", steps=30)
    whole = answers_of(build(model, plan), n=2)
    found = build(model, plan.model_copy(update={"executor": "deadline(ms=100)"})).sample(
        2, raw=True, watch=watch
    )
    assert len(calls) == 4  # 120 ms are the first of those that have passed 100
    assert torch.equal(found, whole[3])
    calls.clear()
    at_once = build(model, plan.model_copy(update={"executor": "deadline(ms=0)"}))
    assert torch.equal(at_once.sample(2, raw=True, watch=watch), whole[0])
    assert len(calls) == 1
    assert at_once.evaluations is None


def test_a_learned_variance_is_no_hindrance(gaussian):
    def made(executor):
        session = session_of(
            lambda x, level: (gaussian(x, level), torch.zeros_like(x)), lambda *_: draws.pop()
        )
        draws = list(torch.randn(20, 4, 1, 8, 8, generator=torch.Generator().manual_seed(1)))
        return executors.parse(executor).run(program, {"x": noise.clone()}, session)

    program = Plan(solver="ddpm(variance='learned')", grid="uniform", steps=20).trace(
        hasten.schedule("ddpm")
    )
    noise = torch.randn(4, 1, 8, 8)
    assert torch.equal(made("early-exit(tolerance=1e-9)"), made("sequential"))


@pytest.mark.parametrize(
    ("executor", "why"),
    [
        ("early-exit(tolerance=0)", "tolerance is 0; it takes a number"),
        ("early-exit", "lacks option 'tolerance'; write it as early-exit"),
        ("early-exit(tolerance=0.1, least=1)", "least is 1; it takes a whole number from 2"),
        ("early-exit(tolerance=0.1, below=0)", "below is 0; it takes a number"),
        ("deadline(ms=-1)", "ms is -1; it takes a number"),
        ("deadline(ms='soon')", "ms is 'soon'; it takes a number"),
    ],
)
def test_options_out_of_range_are_refused(executor, why):
    with pytest.raises(UserError, match=why):
        Plan(executor=executor)


def test_a_number_that_is_none_is_refused():
    for part, option in (("EarlyExit", "tolerance"), ("Deadline", "ms")):
        with pytest.raises(UserError, match=f"{option} is nan"):
            getattr(hasten.executors, part)(**{option: float("nan")})


def test_a_program_of_raw_answers_is_refused(tiny_model):
    from hasten.core.lower import lower

    model = tiny_model()
    raw: Program = lower(Plan(steps=3).trace(model.schedule), model.prediction)
    for executor in ("early-exit(tolerance=0.1)", "deadline(ms=1)"):
        with pytest.raises(UserError, match="do not answer x0"):
            hasten.run(raw, lambda x, level: x, torch.randn(1, 1, 8, 8), executor=executor)
