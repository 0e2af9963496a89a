"""Objectives of students: losses against exact solutions, gradients, plans."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

import hasten
from conftest import tiny_attentive
from hasten.core.call import Call
from hasten.core.condition import Condition
from hasten.core.errors import UserError
from hasten.core.model import Model
from hasten.core.noise_schedule import EDM, Flow, ddpm_schedule
from hasten.core.plan import Plan
from hasten.core.prediction import prediction
from hasten.core.random_streams import generator
from hasten.learning.students.base import DistillationSetup, Stage, objectives, student_network
from hasten.learning.students.batched_denoiser import Levels, Teacher, denoised
from hasten.learning.students.continuous_consistency import slope_of_time
from hasten.learning.students.conversion import Conversion
from hasten.learning.students.progressive import halves
from hasten.learning.students.student import learn_student
from hasten.training.objective import Batch
from student_recipes import OBJECTIVES, distillation, gaussian, loss_on_gaussian, recipe


@pytest.mark.parametrize(
    "objective",
    [pytest.param(name, marks=() if name == "direct" else pytest.mark.slow) for name in OBJECTIVES],
)
def test_every_objective_makes_a_folder_that_samples_by_its_own_plan(
    objective, teacher, data, tmp_path
):
    out = learn_student(teacher, recipe(objective, data), tmp_path / "student", quiet=True)
    student = hasten.load(out)
    assert student.teacher == teacher.sha256
    sampler = hasten.build(student)
    assert sampler.evaluations == OBJECTIVES[objective]
    assert sampler.sample(3, condition=1).isfinite().all()
    named = Plan(levers=(f"student(folder={str(out)!r})",))
    assert torch.equal(
        hasten.build(teacher, named).sample(2, condition=1), sampler.sample(2, condition=1)
    )
    assert "evaluations" in (out / "README.md").read_text()


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_gradients_reach_every_weight_of_the_student(objective, teacher):
    loss, module, batch, _ = distillation(objective, teacher)
    value = loss.loss(module, batch)
    value.backward()
    assert torch.isfinite(value)
    lost = [name for name, p in student_network(module).named_parameters() if p.grad is None]
    assert lost == []


@pytest.mark.parametrize(
    "objective",
    [
        "consistency-distillation(levels=60)",
        "consistency-distillation(levels=240, order=1)",
        "progressive(first=64)",
    ],
)
def test_the_teachers_own_solution_has_hardly_any_loss(objective):
    """Along the ODE of Gaussian data the consistency function and the two-step target are known."""
    solved = gaussian(objective.startswith("consistency"))
    other = gaussian(not objective.startswith("consistency"))
    teacher = gaussian(consistent=False)
    right = loss_on_gaussian(objective, solved, teacher)
    if objective.startswith("consistency"):
        assert right < 0.05 * loss_on_gaussian(objective, other, teacher)
    else:  # 32 DDIM steps in the place of 64 are as near as the step is small
        assert right < 2e-3


def test_the_continuous_tangent_vanishes_at_the_consistency_function():
    """Along the teacher's ODE the derivative of the consistency function is zero (2410.11081)."""
    teacher = gaussian(consistent=False)
    right = loss_on_gaussian("continuous-consistency", gaussian(True), teacher)
    wrong = loss_on_gaussian("continuous-consistency", gaussian(False), teacher)
    assert right < 0.05 * wrong


def test_the_slope_of_time_is_that_of_the_noise_schedule():
    schedule = ddpm_schedule()
    angle = np.array([0.3, 0.9, 1.4])
    step = 1e-4
    ends = [Levels.at_ratios(schedule, np.tan(angle + move)).t for move in (-step, step)]
    assert np.allclose(slope_of_time(schedule, angle), (ends[1] - ends[0]) / (2 * step), rtol=0.02)


def test_steps_are_halved_on_the_grid_that_the_student_samples_on():
    schedule = ddpm_schedule()
    whole = [level.t for level in Plan(solver="ddim", grid="uniform", steps=4).levels(schedule)]
    assert halves(schedule, 4)[::2].tolist() == whole


def test_one_ddim_step_with_the_progressive_target_lands_where_two_steps_do():
    schedule, draws = ddpm_schedule(), generator(9)
    begin, middle, end = (Levels.at_positions(schedule, np.array([t])) for t in (900, 700, 500))
    x, first, second = (torch.randn(1, 1, 2, 2, generator=draws) for _ in range(3))
    there = middle.moved(begin.moved(x, first, middle), second, end)
    share = float(end.sigma[0] / begin.sigma[0])
    target = (there - share * x) / float(end.alpha[0] - share * begin.alpha[0])
    assert torch.allclose(begin.moved(x, target, end), there, atol=1e-5)


def test_shortcuts_of_a_straight_flow_have_no_loss():
    """Where the data are one point, the velocity from anywhere is known and constant on the way."""

    class Point(torch.nn.Module):
        def forward(self, x, t, condition=None):
            s = (t % 1000).clamp(min=1e-3) / 1000
            s = torch.where(t % 1000 == 0, torch.ones_like(s), s)
            return x / s.view(-1, 1, 1, 1)

    part = objectives.parse("shortcut(finest=3)")
    student = Model(net=Point(), schedule=Flow(), prediction=prediction("flow"), shape=(1, 4, 4))
    classroom = DistillationSetup(teacher=Teacher(model=student), student=student, before=student)
    rows = torch.zeros(64, 1, 4, 4)
    batch = Batch(rows=rows, labels=None, generator=generator(8))
    loss = part.objective(classroom, part.stages(1)[0]).loss(student.net, batch)
    assert float(loss) < 1e-4


def test_conversion_has_the_teachers_x0_as_its_target():
    teacher = gaussian(consistent=False)
    same = Conversion(student=teacher, teacher=Teacher(model=teacher))
    rows = 0.5 * torch.randn(64, 1, 8, 8, generator=generator(5)).clamp(-2, 2)
    batch = Batch(rows=rows, labels=None, generator=generator(6))
    # Where the teacher is asked the student is right already; elsewhere single pictures scatter.
    assert float(same.loss(teacher.net, batch)) < 0.3 * 0.25
    lying = Conversion(student=teacher, teacher=Teacher(model=gaussian(consistent=True)))
    again = Batch(rows=rows, labels=None, generator=generator(6))
    assert float(lying.loss(teacher.net, again)) > float(same.loss(teacher.net, again))


def test_direct_of_several_evaluations_trains_on_every_state_of_its_plan(teacher):
    objective = objectives.parse("direct(power=1, middle=0.7)")
    course = objective.trajectory_levels(teacher.schedule, 2)[0]
    assert [round(level.ratio, 3) for level in course[1:]] == [0.7, 0.0]
    setup = DistillationSetup(teacher=Teacher(model=teacher), student=teacher, before=teacher)
    loss = objective.objective(setup, Stage(name="direct", evaluations=2))
    states = [torch.full((16, 1, 8, 8), value) for value in (0.5, 2.0, 0.0)]
    asked = []

    def net(x, t, condition):
        asked.append((x, t))
        return torch.zeros_like(x)

    rows = torch.stack(states, dim=1)
    batch = Batch(rows=rows, labels=None, generator=generator(1), step=0, progress=0.0)
    value = loss.loss(net, batch)
    x, t = asked[0]
    first = t == course[0].t
    assert 0 < int(first.sum()) < 16
    assert torch.allclose(t[~first], torch.tensor(course[1].t, dtype=torch.float32))
    assert torch.allclose(x[first], 0.5 * course[0].spread * torch.ones(1))
    assert torch.equal(x[~first], states[1][~first])
    # An answer of no noise is x / alpha: the loss is the mean of those.
    wanted = torch.where(first, 0.5 * course[0].spread / course[0].alpha, 2 / course[1].alpha)
    assert float(value) == pytest.approx(float(wanted.mean()), rel=1e-5)


def test_stages_of_progressive_distillation_halve():
    names = [stage.evaluations for stage in objectives.parse("progressive(first=16)").stages(1)]
    assert names == [8, 4, 2, 1]
    assert Stage(name="x").share == 1.0


def test_the_batched_denoiser_is_that_of_the_sampler(teacher):
    x = torch.randn(2, 1, 8, 8, generator=generator(2))
    labels = torch.tensor([0, 1])
    level = teacher.schedule.at(300.0)
    mine = denoised(teacher, teacher.net, x, Levels.same(level, 2), labels)
    call = Call(x=x, levels=(level, level), condition=Condition.labels_of(labels))
    (theirs,) = hasten.build(teacher).denoiser([call])
    assert torch.allclose(mine, theirs.x0, atol=1e-5)


def test_continuous_consistency_refuses_a_schedule_that_keeps_no_variance(teacher, data, tmp_path):
    kind = {"schedule": EDM(), "prediction": prediction("edm"), "shape": (1, 8, 8)}
    model = Model(net=tiny_attentive(), labels=2, null_label=2, **kind)
    with pytest.raises(UserError, match="variance-preserving"):
        learn_student(model, recipe("continuous-consistency", data), tmp_path / "s", quiet=True)


def test_the_average_moves_once_a_step_in_however_many_parts(teacher):
    loss, module, _, _ = distillation("consistency-distillation(levels=18)", teacher)
    before = [value.clone() for value in module.other.parameters()]
    with torch.no_grad():
        for value in module.net.parameters():
            value.add_(1.0)
    batch = Batch(
        rows=torch.zeros(2, *teacher.shape), labels=torch.tensor([0, 1]), generator=generator(1)
    )
    for _ in range(4):
        loss.loss(module, batch)
    once = [value.clone() for value in module.other.parameters()]
    loss.loss(module, dataclasses.replace(batch, step=1))
    twice = list(module.other.parameters())
    decay = loss.decay
    for first, second, third in zip(before, once, twice, strict=True):
        assert torch.allclose(second - first, torch.tensor(1 - decay), atol=1e-5)
        assert (third != second).all()
