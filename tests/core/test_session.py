"""Sessions: runs that are advanced side by side share network calls and stay what they are."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import pytest
import torch

import hasten
from conftest import ByFunction, session_of
from hasten.core.call import Answer, Call
from hasten.core.condition import Condition
from hasten.core.denoiser import Guided, classifier_free
from hasten.core.draws import WALK, Draws
from hasten.core.errors import NonFiniteError
from hasten.core.level import Level
from hasten.core.model import Model
from hasten.core.plan import Plan
from hasten.core.session import Session, answer_together
from hasten.core.solver import solvers
from hasten.core.stepping import Steps, follow, stepping
from hasten.sampling import Sampler

TRACED = [name for name in solvers if solvers.parse(name).traceable]
OTHER = Plan(solver="dpmpp(order=2)", grid="log-snr", steps=6)
CLOSE = 1e-5  # a network call of more rows runs other kernels: float32 sums in another order


@pytest.fixture
def model(tiny_model) -> Model:
    """A real network that predicts x0, so that latents stay of the size of pictures."""
    return tiny_model(prediction="x0", labels=3)


class Run:
    """One run of a sampler: its pictures, its guidance and its own noise."""

    def __init__(self, sampler: Sampler, denoiser: Guided, labels: list[int], guidance: float):
        self.sampler, self.denoiser, self.guidance = sampler, denoiser, guidance
        self.condition = sampler.model.condition(len(labels), labels)

    def open(self) -> tuple[Session, dict[str, torch.Tensor], Steps]:
        """A session, the registers, and the steps that cross the program on them."""
        draws = Draws(len(self.condition), range(len(self.condition)), self.sampler.model)
        fresh, weights = functools.partial(draws, WALK), classifier_free(self.guidance)
        session = Session(self.denoiser, fresh, self.condition, weights=weights)
        registers = {"x": draws(0) * self.program.start.spread}
        return session, registers, stepping(self.program, registers)

    @property
    def program(self):
        assert self.sampler.program is not None
        return self.sampler.program

    def alone(self) -> torch.Tensor:
        session, _, steps = self.open()
        return follow(steps, session.answer)


def two_runs(model: Model, solver: str, *levers: str) -> tuple[Run, Run]:
    """A guided run of three pictures by ``solver``, and a run of two by another solver on other
    levels without guidance, of one denoiser."""
    one = hasten.build(model, Plan(solver=solver, grid="uniform", steps=4, levers=levers))
    other = hasten.build(model, OTHER.model_copy(update={"levers": levers}))
    denoiser = Guided(one.denoiser, classifier_free(1.0))
    return Run(one, denoiser, [0, 1, 2], 2.0), Run(other, denoiser, [2, 1], 1.0)


def side_by_side(runs: Sequence[Run]) -> list[torch.Tensor]:
    """The last latents of runs that are advanced in turn, their evaluations answered together."""
    sessions, out = [], {}
    waiting, steps = {}, {}
    for number, run in enumerate(runs):
        session, _, steps[number] = run.open()
        sessions.append(session)
        waiting[number] = next(steps[number])
    while waiting:
        numbers = list(waiting)
        for number in numbers:  # what needs no network is answered at once
            while not waiting[number][0].ask.calls:
                waiting[number] = steps[number].send(sessions[number].answer(waiting[number]))
        asked = [(sessions[number], waiting[number]) for number in numbers]
        for number, answers in zip(numbers, answer_together(asked), strict=True):
            try:
                waiting[number] = steps[number].send(answers)
            except StopIteration as stop:
                out[number] = stop.value
                del waiting[number]
    return [out[number] for number in range(len(runs))]


@pytest.fixture
def network_calls(model) -> list[int]:
    """The rows of every call of the network, one entry each."""
    rows: list[int] = []
    conv_in = model.net.module.conv_in
    conv_in.register_forward_pre_hook(lambda _, given: rows.append(len(given[0])))
    return rows


@pytest.mark.parametrize("levers", [(), ("deep(every=2)",)], ids=["plain", "cached"])
@pytest.mark.parametrize("solver", TRACED)
@torch.inference_mode()
def test_runs_side_by_side_share_network_calls_and_are_what_they_are_alone(
    model, network_calls, solver, levers
):
    runs = two_runs(model, solver, *levers)
    alone = [run.alone() for run in runs]
    evaluations = [run.program.evaluations for run in runs]
    assert len(network_calls) == sum(evaluations)
    network_calls.clear()
    together = side_by_side(runs)
    for mine, wanted in zip(together, alone, strict=True):
        assert (mine - wanted).abs().max() < CLOSE
    # Both branches of three pictures and two pictures in one call, while both runs last.
    both = min(evaluations)
    assert len(network_calls) == max(evaluations)
    assert network_calls[:both] == [2 * 3 + 2] * both
    assert set(network_calls[both:]) <= ({6} if evaluations[0] > both else {2})


@pytest.mark.parametrize("solver", ["ddim", "ddpm", "dpmpp(order=2)"])
@pytest.mark.parametrize("forecast", [0, 1])
@torch.inference_mode()
def test_pictures_picked_in_the_middle_of_a_cached_run_keep_their_features(model, solver, forecast):
    run, _ = two_runs(model, solver, f"deep(every=2, forecast={forecast})")
    wanted, picked = run.alone(), [2, 0]
    for stop in (1, 2):  # the next evaluation is cached, or full with features of the last two
        session, registers, steps = run.open()
        whole, calls = session, 0

        def answer(pending):
            nonlocal session, calls
            calls += pending[0].ask.calls
            answers = session.answer(pending)
            if calls == stop and pending[0].ask.calls:  # noqa: B023
                answers = [tuple(value[picked] for value in values) for values in answers]
                for name, value in registers.items():  # noqa: B023
                    registers[name] = value[picked]  # noqa: B023
                session = session.rows(picked)
            return answers

        end = follow(steps, answer)
        assert session is not whole
        assert (end - wanted[picked]).abs().max() < CLOSE


@torch.inference_mode()
def test_a_picture_that_was_picked_out_draws_its_own_noise(model):
    run, _ = two_runs(model, "ddpm")
    session, _, _ = run.open()
    again, _, _ = run.open()
    first = session.fresh()
    some = session.rows([2, 0])
    second = some.fresh()
    third = some.rows([1]).fresh()
    draws = [again.fresh() for _ in range(3)]
    assert torch.equal(first, draws[0])
    assert torch.equal(second, draws[1][[2, 0]])
    assert torch.equal(third, draws[2][[0]])


def test_calls_of_unlike_conditions_are_answered_apart_in_one_round():
    shapes = []

    def network(x, level):
        shapes.append(tuple(x.shape))
        return 0.5 * x

    session, other = session_of(network), session_of(network)
    other.denoiser = session.denoiser
    small, large = torch.randn(2, 1, 4, 4), torch.randn(3, 1, 8, 8)
    program = Plan(solver="ddim", grid="uniform", steps=3).trace(hasten.schedule("ddpm"))
    steps = [stepping(program, {"x": x.clone()}) for x in (small, large)]
    asked = [(session, next(steps[0])), (other, next(steps[1]))]
    answers = answer_together(asked)
    assert torch.equal(answers[0][0][0], 0.5 * small)
    assert torch.equal(answers[1][0][0], 0.5 * large)
    assert isinstance(session.denoiser, ByFunction)
    assert session.denoiser.rounds == [2]
    assert shapes == [(2, 1, 4, 4), (3, 1, 8, 8)]


def test_each_run_names_its_own_answer_that_is_not_finite():
    def network(x, level):
        return x * (float("nan") if len(x) == 3 else 1.0)

    sessions = [session_of(network), session_of(network)]
    sessions[1].denoiser = sessions[0].denoiser
    level = hasten.schedule("ddpm").at(500)
    for session, n in zip(sessions, (2, 3), strict=True):
        session.denoise(torch.ones(n, 1), level)
    sessions[0].check()
    with pytest.raises(NonFiniteError, match=r"answer 1 of 1 \(t = 500\)"):
        sessions[1].check()


def test_a_run_without_a_condition_is_unconditional():
    seen = []

    class Watching:
        def __call__(self, calls):
            seen.extend(call.condition for call in calls)
            return ByFunction(lambda x, level: x)(calls)

    Session(Watching(), lambda: None).denoise(torch.ones(4, 2), hasten.schedule("edm").at(1.0))
    assert [(len(one), one.labels) for one in seen] == [(4, None)]
    assert seen[0].signature == Condition.none(4).signature


@pytest.mark.parametrize("scales", [{"cond": 3.0, "null": -1.0}, {"cond": 0.5, "null": 0.25}])
def test_weights_of_any_sum_are_what_they_say(scales):
    def answers(calls):
        return [
            Answer(x0=torch.full_like(call.x, 1.0 if call.branch == "cond" else 0.5))
            for call in calls
        ]

    level = Level(1.0, 0.5, 0.5)
    condition = Condition.labels_of(torch.tensor([0, 1]), null=2)
    call = Call(x=torch.zeros(2, 1), levels=(level, level), condition=condition)
    (answer,) = Guided(answers, lambda level: scales)([call])
    assert torch.allclose(answer.x0, torch.tensor(scales["cond"] + 0.5 * scales["null"]))


def test_weights_that_leave_a_branch_out_at_some_levels_are_row_by_row():
    def answers(calls):
        return [
            Answer(x0=torch.full_like(call.x, 1.0 if call.branch == "cond" else 0.5))
            for call in calls
        ]

    first, second = Level(1.0, 0.5, 0.5), Level(2.0, 0.4, 0.6)
    condition = Condition.labels_of(torch.tensor([0, 1]), null=2)
    call = Call(x=torch.zeros(2, 1), levels=(first, second), condition=condition)
    weights = classifier_free(lambda level: 0.0 if level == first else 3.0)
    (answer,) = Guided(answers, weights)([call])
    assert torch.allclose(answer.x0[:, 0], torch.tensor([0.5, 2.0]))


def test_a_run_that_another_denoiser_goes_on_with_keeps_its_own_state():
    session = Session(lambda calls: [], lambda rows=None: None)
    other = session.answered_by(lambda calls: [])
    other._states["main"] = {}
    assert session._states == {}
