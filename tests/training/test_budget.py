"""Budgets in minutes: the length of a run follows from its own steps, on a clock of the test's."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import torch

from hasten.core.errors import UserError
from hasten.training import checkpoint
from hasten.training.budget import Deadline, Length
from hasten.training.loop import Training
from hasten.training.objective import Batch
from hasten.training.recipe import Run


class Clock:
    """Seconds that pass only where something says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@dataclasses.dataclass
class Numbers:
    """Rows (n, 2) of any content."""

    labels: torch.Tensor | None = None

    def __len__(self) -> int:
        return 64

    def at(self, index, key, device):
        return torch.ones(len(index), 2)


@dataclasses.dataclass
class Slow:
    """A loss whose step ``i`` takes ``seconds(i)`` of the clock."""

    clock: Clock
    seconds: Callable[[int], float]

    def loss(self, net: torch.nn.Module, batch: Batch) -> torch.Tensor:
        self.clock.now += self.seconds(batch.step)
        return net(batch.rows).square().mean()


def training(clock: Clock, seconds, folder, *, pictures: int = 4 * 10_000, minutes: float = 1.0):
    fields = {"checkpoint_every": 10**9, "preview_every": 0, "channels_last": False}
    recipe = Run(name="slow", pictures=pictures, optimizer={"batch": 4, "warmup": 0}, **fields)
    return Training(
        recipe=recipe,
        objective=Slow(clock, seconds),
        net=torch.nn.Linear(2, 1),
        rows=Numbers(),
        run=folder,
        deadline=Deadline.after(minutes, clock),
        quiet=True,
    )


def test_a_slow_network_ends_within_a_step_of_the_budget(tmp_path):
    """Forty steps would take ten minutes here, and the budget is one."""
    clock = Clock()
    run = training(clock, lambda step: 15.0, tmp_path)
    run.fit_()
    assert clock.now - 100 == 60
    assert run.step == 4
    assert run.seen == 16
    facts = checkpoint.load(tmp_path / "step-000000004")[1]
    assert (facts["steps"], facts["seconds"]) == (4, 60.0)


def test_the_time_of_compiling_does_not_shorten_the_run(tmp_path):
    clock = Clock()
    run = training(clock, lambda step: 40.0 if step == 0 else 0.5, tmp_path)
    run.fit_()
    assert clock.now - 100 == pytest.approx(60, abs=0.5)
    assert run.step == 41


def test_steps_that_become_slower_end_within_a_step_of_the_budget(tmp_path):
    clock = Clock()
    run = training(clock, lambda step: 1.0 + 0.5 * step, tmp_path)
    run.fit_()
    assert clock.now - 100 <= 60 + 1.0 + 0.5 * run.step


def test_the_rate_has_fallen_when_the_budget_ends(tmp_path, monkeypatch):
    run, rates = training(Clock(), lambda step: 0.1, tmp_path), []
    real = torch.optim.AdamW.step

    def step(self, *args, **options):
        rates.append(self.param_groups[0]["lr"])
        return real(self, *args, **options)

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    run.fit_()
    assert run.step == pytest.approx(600, abs=1)
    assert rates[-1] < 0.01 * max(rates)


def test_a_recipe_that_fits_into_the_budget_is_trained_whole(tmp_path):
    clock = Clock()
    run = training(clock, lambda step: 0.1, tmp_path, pictures=4 * 50)
    run.fit_()
    assert run.step == 50


def test_time_before_a_kill_counts(tmp_path):
    clock = Clock()

    def killed(step: int) -> float:
        if step == 3:
            raise KeyboardInterrupt
        return 10.0

    first = training(clock, killed, tmp_path)
    first.recipe = first.recipe.model_copy(update={"checkpoint_every": 4})
    with pytest.raises(KeyboardInterrupt):
        first.fit_()
    clock.now += 1000.0
    began = clock.now
    again = training(clock, lambda step: 10.0, tmp_path)
    again.fit_()
    assert again.step == 6
    assert clock.now - began == 30


def test_a_deadline_is_shared_out():
    clock = Clock()
    whole = Deadline.after(2.0, clock)
    clock.now += 20.0
    assert whole.left == 100
    assert whole.share(0.25).left == 25
    clock.now += 200.0
    assert whole.left == -100
    assert whole.share(0.5).left == 0


def test_a_length_is_at_most_the_recipes():
    clock = Clock()
    length = Length(Deadline.after(1.0, clock), 0, 7)
    clock.now += 1.0
    assert length.due(1)
    assert length.estimate(1) == 7
    clock.now += 100.0
    assert length.over()
    assert length.estimate(2) == 2


@pytest.mark.parametrize("minutes", [0.0, -1.0, float("nan")])
def test_minutes_out_of_range_are_refused(minutes):
    with pytest.raises(UserError, match="minutes is"):
        Deadline.after(minutes)


def test_a_run_that_its_budget_ended_goes_on_where_it_is_given_more(tmp_path):
    clock = Clock()
    training(clock, lambda step: 15.0, tmp_path).fit_()
    again = training(clock, lambda step: 15.0, tmp_path)
    again.fit_()
    assert (again.step, clock.now) == (4, 160)  # the same budget: nothing is left of it
    more = training(clock, lambda step: 15.0, tmp_path, minutes=2.0)
    more.fit_()
    assert (more.step, clock.now) == (8, 220)
