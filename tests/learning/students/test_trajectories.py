"""Trajectories of a teacher, and the students that follow them."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

import hasten
from hasten.core.noise_schedule import EDM, Flow, ddpm_schedule
from hasten.core.plan import Plan
from hasten.learning.students.student import learn_student
from hasten.learning.students.trajectories import levels_between, teacher_trajectories
from student_recipes import gaussian, recipe


def test_trajectories_end_where_the_ode_ends(tmp_path):
    """On Gaussian data the ODE scales: its end is spread / width of the state it began at."""
    model, beside = gaussian(consistent=False, spread=0.2), tmp_path / "student.run"
    schedule = model.schedule
    middle = schedule.at(400.0)
    course = (schedule.at(schedule.noisy), middle, schedule.at(schedule.clean))
    held = teacher_trajectories(model, [course], beside, count=6, steps=24)
    rows = held.at(np.arange(6), (0,), torch.device("cpu"))
    assert rows.shape == (6, 3, 1, 8, 8)
    width = (0.04 * middle.alpha**2 + middle.sigma**2) ** 0.5
    assert float((rows[:, 1] - width * rows[:, 0]).abs().max()) < 5e-3
    assert float((rows[:, 2] - 0.2 * rows[:, 0]).abs().max()) < 5e-3
    times = [file.stat().st_mtime_ns for file in held.files]
    again = teacher_trajectories(model, [course], tmp_path / "other.run", count=6, steps=24)
    assert [file.stat().st_mtime_ns for file in again.files] == times


@pytest.mark.parametrize("schedule", [ddpm_schedule(), EDM(), Flow()])
def test_the_levels_between_two_fall_and_are_as_many_as_asked(schedule):
    for end in (schedule.at(schedule.position(1.0)), schedule.at(schedule.clean)):
        levels = levels_between(schedule, schedule.at(schedule.noisy), end, 7)
        snr = [level.half_log_snr for level in levels]
        assert len(levels) == 8
        assert all(a < b for a, b in itertools.pairwise(snr))


@pytest.mark.slow
def test_one_trajectory_student_serves_several_numbers_of_evaluations(teacher, data, tmp_path):
    made = recipe("trajectory", data, objective="trajectory(fewest=2)", evaluations=4)
    student = hasten.load(learn_student(teacher, made, tmp_path / "student", quiet=True))
    counts = [hasten.build(student, Plan.of(fields)).evaluations for fields in student.plans]
    assert counts == [4, 3, 2]
    tops = [Plan.of(fields).levels(student.schedule)[0].t for fields in student.plans]
    assert tops == sorted(tops, reverse=True)
    assert len(set(tops)) == 3
