"""Noise schedules and predictions: the numbers everything else stands on."""

from __future__ import annotations

import itertools
import math

import diffusers
import numpy as np
import pytest
import torch

import hasten
from hasten.adapters.schedules import betas
from hasten.core.errors import UserError
from hasten.core.learned_schedule import LearnedSchedule
from hasten.core.noise_schedule import Discrete, schedule, schedules
from hasten.core.prediction import predictions

LEARNED = LearnedSchedule(scale=0.4, slope=(5.0, 20.0), bias=(-1.0, -9.0), out=(1.0, 0.3))
SCHEDULES = [
    hasten.schedule(name) for name in ("ddpm", "vp-linear", "vp-cosine", "edm", "flow(shift=3.0)")
]
ALL = [*SCHEDULES, LEARNED, hasten.schedule({"name": "vp-cosine", "end": 1.0})]


def inside(schedule, count=13):
    return np.linspace(schedule.low, schedule.noisy, count)[1:-1]


@pytest.mark.parametrize("schedule", ALL, ids=lambda schedule: schedule.part_name)
def test_position_inverts_at(schedule):
    for position in inside(schedule):
        level = schedule.at(position)
        assert schedule.position(level.half_log_snr) == pytest.approx(position, rel=1e-9)


@pytest.mark.parametrize("schedule", ALL, ids=lambda schedule: schedule.part_name)
def test_signal_falls_along_the_schedule_and_ends_clean(schedule):
    ratios = [schedule.at(position).ratio for position in (schedule.clean, *inside(schedule))]
    assert all(a < b for a, b in itertools.pairwise(ratios))
    assert schedule.at(schedule.clean).sigma == 0
    assert schedule.at(schedule.clean).alpha == pytest.approx(1)


@pytest.mark.parametrize("schedule", [p for p in ALL if p.part_name not in ("edm", "flow")])
def test_variance_preserving_schedules_preserve_variance(schedule):
    for position in inside(schedule):
        assert schedule.at(position).spread == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("schedule", ALL, ids=lambda schedule: schedule.part_name)
def test_a_schedule_survives_its_config(schedule):
    again = hasten.schedule(schedule.config())
    assert [again.at(p) for p in inside(schedule)] == [schedule.at(p) for p in inside(schedule)]


@pytest.mark.parametrize("schedule", ["linear", "scaled_linear", "squaredcos_cap_v2"])
@pytest.mark.parametrize("zero", [False, True])
def test_a_discrete_schedule_has_the_table_of_the_diffusers_scheduler(schedule, zero):
    theirs = diffusers.DDIMScheduler(beta_schedule=schedule, rescale_betas_zero_snr=zero)
    ours = hasten.schedule({"_class_name": "DDIMScheduler", **theirs.config})
    table = torch.tensor(ours.alphas_cumprod)
    # Theirs is a float32 product of 1000 factors: 1000 roundings of 6e-8.
    assert torch.allclose(table, theirs.alphas_cumprod, atol=6e-5)
    if zero:
        assert ours.at(999).alpha == 0
        assert ours.at(998.5).alpha > 0


def test_between_entries_log_snr_is_linear():
    schedule = hasten.schedule("ddpm")
    half = 0.5 * (schedule.at(500).half_log_snr + schedule.at(501).half_log_snr)
    assert schedule.at(500.5).half_log_snr == pytest.approx(half, rel=1e-12)


def test_flow_shift_is_that_of_the_diffusers_scheduler():
    theirs = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    theirs.set_timesteps(10)
    ours = hasten.schedule({"_class_name": "FlowMatchEulerDiscreteScheduler", **theirs.config})
    for t, sigma in zip(theirs.timesteps.tolist(), theirs.sigmas.tolist(), strict=False):
        # Their linspace runs over already shifted ends; undo the shift to find the position.
        level = ours.at(sigma / (3.0 - 2.0 * sigma))
        assert level.sigma == pytest.approx(sigma, abs=1e-6)
        assert level.t == pytest.approx(t, abs=1e-2)


@pytest.mark.parametrize("schedule", ALL, ids=lambda schedule: schedule.part_name)
@pytest.mark.parametrize("name", list(predictions))
def test_a_network_that_answers_its_target_gives_back_x0(schedule, name):
    rng = np.random.default_rng(0)
    x0, noise = rng.standard_normal(5), rng.standard_normal(5)
    for position in (*inside(schedule), schedule.low, schedule.noisy):
        level = schedule.at(position)
        if name == "epsilon" and level.alpha < 1e-3:
            continue  # 1 / alpha amplifies rounding; alpha = 0 has a test of its own
        here = hasten.prediction(name).at(level)
        of_x0, of_noise = here.target(level)
        x = level.alpha * x0 + level.sigma * noise
        answer = of_x0 * x0 + of_noise * noise
        assert np.abs(here.skip * x + here.out * answer - x0).max() < 1e-8


def test_epsilon_cannot_answer_without_signal():
    schedule = hasten.schedule({"name": "vp-cosine", "end": 1.0})
    with pytest.raises(UserError, match=r"alpha = 0.*'v'"):
        hasten.prediction("epsilon").at(schedule.at(1.0))


def test_edm_preconditioning_is_that_of_the_paper():
    level = hasten.schedule("edm").at(2.0)
    here = hasten.prediction("edm").at(level)
    assert level.t == pytest.approx(math.log(2.0) / 4)
    assert here.scale == pytest.approx(1 / math.sqrt(4.25))
    assert here.skip == pytest.approx(0.25 / 4.25)
    assert here.out == pytest.approx(2 * 0.5 / math.sqrt(4.25))


def test_squared_cosine_betas_are_capped():
    assert betas("squaredcos_cap_v2", 1000, 0, 0).max() == 0.999


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("vp-lineer", "vp-linear"),
        ("flow(shfit=3)", "shift"),
        ("flow(shift=0)", "shift"),
        ("flow(shift=", "cannot be read"),
        ("flow(__import__('os'))", "cannot be read"),
        ({"name": "discrete", "alphas_cumprod": [0.1, 0.9]}, "alphas_cumprod"),
        ({"name": "discrete", "alphas_cumprod": [0.9, float("nan")]}, "alphas_cumprod"),
        ({"beta_schedule": "sigmoidal"}, "beta_schedule"),
        ({"beta_schedule": "linear", "num_train_timesteps": 10**9}, "num_train_timesteps"),
        (7, "schedule is 7"),
    ],
)
def test_a_wrong_schedule_is_refused_in_one_line(given, words):
    with pytest.raises(UserError, match=words) as caught:
        hasten.schedule(given)
    assert "\n" not in str(caught.value)


def test_two_parts_of_one_name_are_refused():
    with pytest.raises(ValueError, match="two noise schedules are named 'flow'"):
        schedules.add("flow")(Discrete)


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": "ddpm", "foo": 1},
        {"name": ["ddpm"]},
        {"name": "discrete", "alphas_cumprod": ["a", "b"]},
        {"name": "discrete", "alphas_cumprod": 3},
    ],
)
def test_a_dict_that_is_no_schedule_is_one_line(wrong):
    with pytest.raises(UserError, match="schedule"):
        schedule(wrong)
