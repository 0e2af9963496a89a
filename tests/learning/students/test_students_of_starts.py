"""Students that begin below the top of the noise schedule."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

import hasten
from hasten.core.condition import as_condition
from hasten.core.errors import UserError
from hasten.core.plan import Plan
from hasten.core.random_streams import generator
from hasten.core.start import starts
from hasten.learning.starts.starts import learn_start
from hasten.learning.students.student import learn_student
from hasten.learning.students.trajectories import teacher_trajectories
from student_recipes import recipe


@pytest.fixture(scope="module")
def start(teacher, data, tmp_path_factory) -> str:
    file = tmp_path_factory.mktemp("starts") / "gaussian.safetensors"
    learn_start(teacher, "gaussian", file, data=data)
    return f"gaussian(ratio=3, file={str(file)!r})"


@pytest.mark.parametrize(
    "objective",
    [
        "consistency",
        pytest.param("continuous-consistency", marks=pytest.mark.slow),
        pytest.param("trajectory", marks=pytest.mark.slow),
    ],
)
def test_a_student_of_a_start_learns_the_levels_below_it(objective, teacher, data, start, tmp_path):
    made = recipe(objective, data, start=start)
    student = hasten.load(learn_student(teacher, made, tmp_path / "student", quiet=True))
    assert student.schedule == teacher.schedule
    sampler = hasten.build(student)
    assert sampler.evaluations == 2
    assert sampler.levels[0].ratio == pytest.approx(3, rel=1e-3)
    assert sampler.sample(2, condition=1).isfinite().all()
    # A network that tells the noise knows enough at that level: it need not learn to tell v.
    assert student.prediction.part_name == "v" if "continuous" in objective else "epsilon"


def test_trajectories_of_a_start_begin_where_it_does(teacher, start, tmp_path):
    schedule = starts.parse(start).shortened(teacher.schedule)
    ends = [(schedule.at(schedule.noisy), schedule.at(schedule.clean))]
    held = teacher_trajectories(teacher, ends, tmp_path / "s.run", count=3, steps=4, start=start)
    rows = held.at(np.arange(3), (0,), torch.device("cpu"))
    plan = Plan(solver="dpmpp(order=3)", grid="log-snr", steps=4, start=start)
    sampler = hasten.build(teacher, plan)
    noise = torch.stack([torch.randn(1, 8, 8, generator=generator(3_000_003, i)) for i in range(3)])
    began = sampler.begin(noise, ends[0][0], as_condition(held.labels, 3))
    assert float((rows[:, 0] * ends[0][0].spread - began).abs().max()) < 1e-2
    assert float((rows[:, 0] - noise).abs().max()) > 0.1


@pytest.mark.slow
def test_a_start_of_the_teachers_samples_is_the_students_too(teacher, data, tmp_path):
    file = tmp_path / "gaussian.safetensors"
    learn_start(teacher, "gaussian", file, n=40)
    made = recipe("direct", data, start=f"gaussian(ratio=3, file={str(file)!r})")
    student = hasten.load(learn_student(teacher, made, tmp_path / "student", quiet=True))
    assert hasten.build(student).sample(2, condition=1).isfinite().all()
    stranger = dataclasses.replace(student, teacher="")
    with pytest.raises(UserError, match="other weights"):
        hasten.build(stranger)


@pytest.mark.parametrize(
    ("objective", "changes", "words"),
    [
        ("reflow", {}, "drop start"),
        ("shortcut(finest=2)", {}, "drop start"),
        ("trajectory", {"objective": "trajectory(fewest=1)"}, "fewest"),
        ("consistency", {}, "none"),
        ("consistency", {"objective": "consistency(middle=4.0)"}, "middle is 4"),
        ("dmd", {"objective": "dmd(middle=4.0)", "evaluations": 2}, "middle is 4"),
        ("direct", {"objective": "direct(middle=4.0)", "evaluations": 2}, "middle is 4"),
        ("direct", {"start": "noise", "begin": "nowhere"}, "nowhere"),
    ],
)
def test_a_start_is_refused_where_it_cannot_be(objective, changes, words, teacher, data, tmp_path):
    made = recipe(objective, data, **{"start": "gaussian(ratio=3, file='none')", **changes})
    with pytest.raises(UserError, match=words):
        learn_student(teacher, made, tmp_path / "s", quiet=True)
    assert list(tmp_path.iterdir()) == []  # before a walk is made or a step is taken
