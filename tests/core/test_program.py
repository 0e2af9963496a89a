"""Tracing, programs, lowering."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch

import hasten
from conftest import GaussianDenoiser
from hasten.core.ask import Denoise, Noise
from hasten.core.errors import TracingError, UserError
from hasten.core.lower import lower
from hasten.core.program import Program
from hasten.core.solver import Solver, trace
from hasten.executors.sequential import Answers, Sequential, drive

PATH = hasten.schedule("ddpm")
EXAMPLE = hasten.Plan(solver="ddim(eta=0.5)", grid="uniform", steps=6)


def start(n=3):
    return torch.randn(n, 1, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def normal(seed=2):
    one = torch.Generator().manual_seed(seed)
    return lambda: torch.randn(3, 1, 4, 4, dtype=torch.float64, generator=one)


def test_a_program_gives_what_its_walk_gives(gaussian):
    program = EXAMPLE.trace(PATH)
    traced = Sequential().run(program, start(), Answers(gaussian, normal()))
    walked = drive(
        EXAMPLE.crossing.walk(start(), EXAMPLE.levels(PATH)), Answers(gaussian, normal())
    )
    assert (traced - walked).abs().max() < 1e-14


def test_json_gives_the_same_program_to_the_last_bit():
    program = EXAMPLE.trace(PATH)
    assert Program.from_json(program.to_json()) == program


def test_a_thousand_ancestral_steps_live_in_four_latents():
    plan = hasten.Plan(solver="ddpm", grid="uniform", steps=1000)
    program = plan.trace(PATH)
    assert program.evaluations == 1000
    assert program.peak <= 4


def test_the_executor_holds_no_more_latents_than_the_program_says():
    program = hasten.Plan(solver="ddpm", grid="uniform", steps=50).trace(PATH)
    most, alive = 0, set()

    class Watched(torch.Tensor):
        pass

    import weakref

    def seen(value):
        nonlocal most
        copy = value.clone()
        alive.add(id(copy))
        weakref.finalize(copy, alive.discard, id(copy))
        most = max(most, len(alive))
        return copy

    backend = Answers(lambda x, level: seen(x * 0.5), lambda: seen(torch.zeros(3, 1, 4, 4)))
    Sequential().run(program, start().float(), backend)
    assert most <= 2  # of the four, x and the sum being made are not counted here


def test_clipping_is_a_row_of_its_own(gaussian):
    plan = hasten.Plan(solver="ddim", grid="uniform", steps=4, clip=0.2)
    program = plan.trace(PATH)
    assert [row.ask.op for row in program.rows].count("clip") == 4
    out = hasten.run(program, gaussian, start())
    assert out.abs().max() <= 0.2 + 1e-12


class OfNetwork:
    """A machine over raw network outputs, as an exported runtime has it."""

    def __init__(self, prediction, denoiser, schedule):
        self.prediction, self.denoiser, self.schedule = prediction, denoiser, schedule
        self.noise = normal()

    def network(self, x, t, branch):
        level = self.schedule.at(t)
        here = self.prediction.at(level)
        x = x / here.scale
        x0 = self.denoiser(x, level) if branch == "cond" else 0.5 * self.denoiser(x, level)
        return (x0 - here.skip * x) / here.out


@pytest.mark.parametrize("prediction", ["epsilon", "v", "edm"])
@pytest.mark.parametrize("guidance", [1.0, 2.5])
@pytest.mark.parametrize("solver", ["ddim", "ddim(eta=0.5)", "dpmpp(order=3)", "heun"])
def test_lowering_gives_the_same_pictures(prediction, guidance, solver, gaussian):
    program = hasten.Plan(solver=solver, grid="uniform", steps=5, clip=None).trace(PATH)

    def guided(x, level):
        wanted, null = gaussian(x, level), 0.5 * gaussian(x, level)
        return null + guidance * (wanted - null)

    want = Sequential().run(program, start(), Answers(guided, normal()))
    low = lower(program, hasten.prediction(prediction), guidance)
    assert {row.ask.op for row in low.rows} <= {"network", "combine", "noise"}
    backend = OfNetwork(hasten.prediction(prediction), gaussian, PATH)
    got = Sequential().run(Program.from_json(low.to_json()), start(), backend)
    # epsilon at t = 999 divides by alpha = 0.0064, and again by the guidance's differences.
    assert (got - want).abs().max() < 1e-9


@dataclasses.dataclass(frozen=True, kw_only=True)
class Crooked(Solver):
    how: str

    def walk(self, x, levels):
        x0 = yield Denoise(x, levels[0])
        if self.how == "product":
            return x * x0
        if self.how == "method":
            return x0.clamp(-1, 1)
        if self.how == "branch":
            return x if x0 else x0
        if self.how == "constant":
            return x + 1.0
        return x * float("nan")


@pytest.mark.parametrize("how", ["product", "method", "branch", "constant", "nan"])
def test_what_is_not_linear_says_so(how):
    with pytest.raises(TracingError):
        trace(Crooked(how=how), (PATH.at(999), PATH.at(0)))


def broken(change):
    body = json.loads(EXAMPLE.trace(PATH).to_json())
    change(body)
    return json.dumps(body)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda body: body.update(format="other"), "format"),
        (lambda body: body.pop("output"), "missing"),
        (lambda body: body.update(output="q9"), "q9"),
        (lambda body: body.update(rows=[]), "no rows"),
        (lambda body: body["rows"][0].update(op="explode"), "explode"),
        (lambda body: body["rows"][0].update(x="x7"), "x7"),
        (lambda body: body["rows"][1].update(out=["d0"]), "second time"),
        (lambda body: body["rows"][0]["level"].update(t=float("inf")), "inf"),
        (lambda body: body["rows"][0].pop("level"), "missing"),
        (lambda body: body["rows"][0].update(out=[]), "answers"),
    ],
)
def test_a_damaged_program_is_refused_in_one_line(change, words):
    with pytest.raises(UserError, match=words) as caught:
        Program.from_json(broken(change))
    assert "\n" not in str(caught.value)


def test_text_that_is_no_json_is_refused():
    with pytest.raises(UserError, match="no JSON"):
        Program.from_json("{")


def test_noise_depends_on_seed_and_place_alone(gaussian: GaussianDenoiser):
    program = EXAMPLE.trace(PATH)
    noise = start(5)
    together = hasten.run(program, gaussian, noise, seed=4)
    alone = hasten.run(program, gaussian, noise[:2], seed=4)
    assert torch.equal(together[:2], alone)
    other = hasten.run(program, gaussian, noise, seed=5)
    assert not torch.equal(together, other)


def test_noise_asks_are_counted():
    program = EXAMPLE.trace(PATH)
    assert program.draws == sum(isinstance(row.ask, Noise) for row in program.rows) == 5
