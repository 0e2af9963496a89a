"""Executors that ask many questions at once give the sequential executor's pictures."""

from __future__ import annotations

import dataclasses
import itertools
import math
import os
import socket
import subprocess
import sys

import pytest
import torch

import hasten
from conftest import ByFunction
from hasten.core.ask import Denoise
from hasten.core.call import Answer
from hasten.core.condition import Condition
from hasten.core.executor import executors
from hasten.core.plan import Plan
from hasten.core.program import symbol, trace_walk
from hasten.core.session import Session

WIDE = ["picard", "anderson", "parareal(blocks=4)"]
SOLVERS = [
    "ddim",
    "ddim(eta=0.5)",
    "ddpm",
    "heun",
    "dpmpp(order=2)",
    "dpmpp-sde",
    "unipc",
    "restart",
]
# Questions settle to the tolerance, and what follows amplifies that by a few times at most for the
# denoisers below (their slope in x is at most 1 / alpha); 10 covers it with room.
LEAST, AMPLIFIED = 1e-5, 10


class Mixture:
    """The exact denoiser of two equal points at -1 and 1: x0 = tanh(alpha x / sigma^2), whose
    slope is nothing like that of normal data."""

    def __call__(self, x: torch.Tensor, level) -> torch.Tensor:
        return torch.tanh(x * (level.alpha / level.sigma**2))


def crossed(executor, program, noise, function, watch=None):
    """The last latents, and how many evaluations each round had."""
    denoiser, generator = ByFunction(function), torch.Generator().manual_seed(0)
    session = Session(denoiser, lambda: torch.randn(noise.shape, generator=generator))
    begin = {"x": noise * program.start.spread}
    return executors.parse(executor).run(program, begin, session, watch), denoiser.rounds


def apart(got, wanted):
    """The largest root mean square difference of a picture, as tolerances count it."""
    return (got - wanted).flatten(1).square().mean(1).sqrt().max()


@pytest.fixture
def noise():
    return torch.randn(3, 1, 4, 4)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("executor", ["picard", "anderson", "parareal"])
def test_every_program_gives_the_sequential_picture(executor, solver, noise):
    program = hasten.trace(Plan(solver=solver, grid="uniform", steps=24), "ddpm")
    wanted, _ = crossed("sequential", program, noise, Mixture())
    got, _ = crossed(f"{executor}(tolerance={LEAST})", program, noise, Mixture())
    assert apart(got, wanted) < AMPLIFIED * LEAST


def test_clipped_answers_are_followed(noise):
    program = hasten.trace(Plan(solver="ddpm", grid="uniform", steps=24, clip=0.6), "ddpm")
    wanted, _ = crossed("sequential", program, noise, Mixture())
    got, _ = crossed(f"anderson(tolerance={LEAST})", program, noise, Mixture())
    assert apart(got, wanted) < AMPLIFIED * LEAST


def test_a_linear_network_is_known_after_the_window_has_opened(noise, gaussian):
    # The slope of normal data is exact for it, so the first answers tell all: 3 opening rounds, one
    # more that finds nothing moves, and one for the mean that the first guess has wrong.
    program = hasten.trace(Plan(solver="ddim", grid="uniform", steps=60), "ddpm")
    wanted, _ = crossed("sequential", program, noise, gaussian)
    got, rounds = crossed("picard", program, noise, gaussian)
    assert len(rounds) <= 5
    assert (got - wanted).abs().max() < 1e-5  # float32 sums of 60 terms


@pytest.mark.parametrize("executor", ["picard(window=7", "anderson(window=7"])
def test_a_round_asks_no_more_than_the_window(executor, noise):
    program = hasten.trace(Plan(solver="ddpm", grid="uniform", steps=30), "ddpm")
    wanted, _ = crossed("sequential", program, noise, Mixture())
    got, rounds = crossed(f"{executor}, tolerance={LEAST})", program, noise, Mixture())
    assert max(rounds) <= 7
    assert apart(got, wanted) < AMPLIFIED * LEAST


def test_a_window_of_one_is_the_sequential_run(noise):
    program = hasten.trace(Plan(solver="ddpm", grid="uniform", steps=9), "ddpm")
    wanted, _ = crossed("sequential", program, noise, Mixture())
    got, rounds = crossed("anderson(window=1)", program, noise, Mixture())
    assert len(rounds) == 9
    assert torch.equal(got, wanted)


@pytest.mark.parametrize("executor", ["picard", "anderson"])
def test_there_are_never_more_rounds_than_evaluations(executor, noise):
    class Rough:  # answers that no slope foretells
        def __call__(self, x, level):
            return torch.sin(40 * x)

    program = hasten.trace(Plan(solver="ddim", grid="uniform", steps=20), "ddpm")
    wanted, _ = crossed("sequential", program, noise, Rough())
    got, rounds = crossed(f"{executor}(tolerance=1e-9)", program, noise, Rough())
    assert len(rounds) <= 20
    assert (got - wanted).abs().max() < 1e-3  # float32's 1e-7, amplified by sin(40 x)


def test_parareal_is_exact_after_as_many_iterations_as_blocks(noise):
    program = hasten.trace(Plan(solver="ddpm", grid="uniform", steps=20), "ddpm")
    wanted, _ = crossed("sequential", program, noise, Mixture())
    got, rounds = crossed("parareal(blocks=4, tolerance=1e-9)", program, noise, Mixture())
    # the coarse pass 4; then at most 4 times the other 4 questions of a block and 4 corrections
    assert len(rounds) <= 4 + 4 * (4 + 4)
    assert (got - wanted).abs().max() < 1e-5


def test_one_block_is_the_sequential_run(noise):
    program = hasten.trace(Plan(solver="ddpm", grid="uniform", steps=8), "ddpm")
    wanted, _ = crossed("sequential", program, noise, Mixture())
    got, rounds = crossed("parareal(blocks=1)", program, noise, Mixture())
    assert len(rounds) == 8
    assert torch.equal(got, wanted)


def test_anderson_learns_a_slope_that_picard_does_not(noise, gaussian):
    # Data four times as wide as supposed: the network is linear, so its secants are its Jacobian.
    program = hasten.trace(Plan(solver="ddim", grid="uniform", steps=100), "ddpm")
    wide = dataclasses.replace(gaussian, std=2.0)
    wanted, _ = crossed("sequential", program, noise, wide)
    counts = []
    for name in ("picard", "anderson"):
        got, rounds = crossed(f"{name}(tolerance={LEAST})", program, noise, wide)
        assert apart(got, wanted) < AMPLIFIED * LEAST
        counts.append(len(rounds))
    assert counts[1] < counts[0]


@pytest.mark.parametrize("executor", WIDE)
def test_a_picture_does_not_depend_on_its_batch_mates(executor, tiny_model):
    plan = Plan(solver="ddpm", grid="uniform", steps=12, executor=executor)
    sampler = hasten.build(tiny_model(), plan)
    together = sampler.sample(5, raw=True, batch=5)
    for i in range(5):
        alone = sampler.sample(1, first=i, raw=True)
        assert apart(alone, together[i : i + 1]) < 1e-3  # the default tolerance


@pytest.mark.parametrize("executor", WIDE)
def test_guided_pictures_of_a_real_network_are_those_of_the_sequential_run(executor, tiny_model):
    model, plan = tiny_model(labels=3), Plan(solver="ddim", grid="uniform", steps=16, guidance=2)
    wanted = hasten.build(model, plan).sample(2, condition=1, raw=True)
    wide = Plan(**{**plan.model_dump(), "executor": executor})
    got = hasten.build(model, wide).sample(2, condition=1, raw=True)
    assert apart(got, wanted) < 1e-3  # the default tolerance


@pytest.mark.parametrize("executor", WIDE)
def test_watch_is_called_once_a_round(executor, noise):
    program = hasten.trace(Plan(solver="ddpm", grid="uniform", steps=12), "ddpm")
    seen = []
    _, rounds = crossed(
        executor, program, noise, Mixture(), lambda k, x0: seen.append((k, x0.shape))
    )
    assert seen == [(k, noise.shape) for k in range(len(rounds))]


@pytest.mark.parametrize("executor", WIDE)
def test_each_evaluation_keeps_its_variant_and_its_condition(executor, noise):
    """The answer depends on both, so a run that mixed them up would end elsewhere."""
    levels = Plan(solver="ddim", grid="uniform", steps=12).levels(hasten.schedule("ddpm"))

    def walk(x):
        for number, (here, there) in enumerate(itertools.pairwise(levels)):
            which = ("full", "small")[number % 2]
            about = ("main", "source")[number // 2 % 2]
            x0 = yield Denoise(x, here, variant=which, condition=about)
            x = there.alpha * x0 + there.sigma / here.sigma * (x - here.alpha * x0)
        return x

    class Both:
        def __call__(self, calls):
            return [Answer(x0=self.x0(call)) for call in calls]

        def x0(self, call):
            labels = call.condition.labels.view(-1, 1, 1, 1)
            return torch.tanh(call.x + labels) * (0.5 if call.variant == "small" else 1.0)

    program = trace_walk(walk(symbol()), levels[0])
    labels = {"main": torch.tensor([0, 1, 2]), "source": torch.tensor([-1, 0, -2])}
    conditions = {name: Condition.labels_of(value) for name, value in labels.items()}

    def run(text):
        session = Session(Both(), lambda: None, conditions)
        return executors.parse(text).run(program, {"x": noise.clone()}, session)

    assert apart(run(executor), run("sequential")) < 1e-2  # ten times the tolerance


def test_memory_is_that_of_the_window(noise):
    program = hasten.trace(Plan(solver="ddpm", grid="uniform", steps=1000), "ddpm")
    from hasten.executors import rows

    held = []
    cross = rows.Rows.cross

    def counted(self, *given):
        held.append(len(self._noise))
        return cross(self, *given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows.Rows, "cross", counted)
        crossed("picard(window=20)", program, noise, Mixture())
    assert max(held) <= 21  # one noise a call, and the one behind the window's last


def test_a_network_that_breaks_down_ends_the_run(tiny_model):
    model = tiny_model()
    torch.nn.init.constant_(model.net.module.conv_out.bias, math.nan)
    sampler = hasten.build(
        model, Plan(solver="ddim", grid="uniform", steps=50, executor="anderson")
    )
    with pytest.raises(hasten.NonFiniteError, match="not finite"):
        sampler.sample(1)


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("picard(window=0)", "window is 0"),
        ("picard(window=2.5)", "window is 2.5"),
        ("anderson(tolerance=0)", "tolerance is 0"),
        ("anderson(tolerance=-1e-3)", "tolerance is -0.001"),
        ("anderson(tolerance=1e999)", "tolerance is inf"),
        ("anderson(memory=0)", "memory is 0"),
        ("parareal(blocks=0)", "blocks is 0"),
        ("parareal(tolerance=0)", "tolerance is 0"),
        ("picard(data_std=-1)", "data_std is -1"),
    ],
)
def test_a_bad_option_is_one_line(text, field):
    with pytest.raises(hasten.UserError, match=field) as caught:
        Plan(executor=text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["picard", "anderson", "parareal"])
def test_a_tolerance_that_is_no_number_is_refused(name):
    with pytest.raises(hasten.UserError, match="tolerance is nan"):
        executors.make(name, {"tolerance": math.nan})


def test_more_blocks_than_evaluations_are_refused_when_a_sampler_is_built(tiny_model):
    with pytest.raises(hasten.UserError, match="blocks is 10, but the program has 9 evaluations"):
        hasten.build(tiny_model(), Plan(solver="ddim", steps=9, executor="parareal(blocks=10)"))


def test_a_learned_variance_is_refused_with_the_reason(noise):
    program = hasten.trace(Plan(solver="ddpm(variance='learned')", grid="uniform", steps=9), "ddpm")
    for name in WIDE:
        with pytest.raises(hasten.UserError, match="this program asks for 'denoise_with_variance'"):
            crossed(name, program, noise, Mixture())


RANK = """
import datetime, sys, torch, hasten
from hasten.core.plan import Plan
from hasten.executors import distributed
from hasten.core.errors import HastenError

torch.set_num_threads(1)
distributed.PATIENCE = datetime.timedelta(minutes=5)  # however busy the machine is
asked, dies = [], {dies}

def network(x, level):
    asked.append(level)
    if dies and len(asked) == 25:  # in the third round
        sys.exit(9)
    return torch.tanh(x * (level.alpha / level.sigma**2))

program = hasten.trace(Plan(solver="ddpm", grid="uniform", steps=40), "ddpm")
noise = torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(1))
try:
    x0 = hasten.run(program, network, noise, executor="anderson")
except HastenError as error:
    sys.exit(f"refused: {{error}}")
print(len(asked), x0.double().sum().item(), x0.flatten()[:3].tolist())
"""


def ranks(dies: int | None = None) -> list[tuple[int, str, str]]:
    """Two processes that share one run, and of each its exit status, output and errors."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    started = []
    for rank in range(2):
        env = {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
        env |= {"MASTER_PORT": port, "OMP_WAIT_POLICY": "passive"}
        code = [sys.executable, "-c", RANK.format(dies=rank == dies)]
        pipe = subprocess.PIPE
        started.append(
            subprocess.Popen(code, env=os.environ | env, stdout=pipe, stderr=pipe, text=True)
        )
    done = []
    try:
        for one in started:
            out, err = one.communicate(timeout=280)
            done.append((one.returncode, out, err))
    finally:
        for one in started:
            one.kill()
    return done


@pytest.mark.slow
def test_two_processes_share_the_questions_and_end_with_the_same_picture():
    (status, first, err), (other, second, _) = ranks()
    assert (status, other) == (0, 0), err
    assert first == second
    share = int(first.split()[0])
    program = hasten.trace(Plan(solver="ddpm", grid="uniform", steps=40), "ddpm")
    noise = torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    alone = hasten.run(program, Mixture(), noise, executor="anderson")
    assert float(first.split()[1]) == pytest.approx(alone.double().sum().item(), abs=1e-3)
    assert share < 40 * 3  # a run alone asks about 40 * 3.5 questions, so this is half and rounding


@pytest.mark.slow
def test_the_death_of_a_process_ends_the_others_with_one_line():
    (status, _, err), (other, _, _) = ranks(dies=1)
    assert other == 9
    assert status == 1
    refused = [line for line in err.splitlines() if line.startswith("refused: ")]
    assert len(refused) == 1
    assert "died or is more than 300 s behind" in refused[0]


def test_a_walk_without_a_program_is_refused_when_a_sampler_is_built(tiny_model):
    plan = Plan(solver="adaptive-ode", executor="picard")
    with pytest.raises(hasten.UserError, match="executor 'picard' runs a Program"):
        hasten.build(tiny_model(), plan)


@pytest.mark.parametrize(("size", "what"), [("2", "the processes did not meet"), ("two", "number")])
def test_processes_that_were_not_started_together_are_told(size, what, noise, monkeypatch):
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WORLD_SIZE", size)
    program = hasten.trace(Plan(solver="ddim", grid="uniform", steps=9), "ddpm")
    with pytest.raises(hasten.UserError, match=what):
        hasten.run(program, Mixture(), noise, executor="picard")
