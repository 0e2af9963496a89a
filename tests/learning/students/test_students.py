"""Distillation: every objective trains, resumes exactly, and makes folders that load."""

from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch

import hasten
from conftest import tiny_attentive
from hasten.core.errors import UserError
from hasten.core.model import Model
from hasten.core.noise_schedule import EDM, Flow, ddpm_schedule
from hasten.core.plan import Plan
from hasten.core.prediction import prediction
from hasten.core.seeds import generator
from hasten.core.start import starts
from hasten.learning.starts.starts import learn_start
from hasten.learning.students.base import Classroom, Stage, alone, objectives
from hasten.learning.students.batched_denoiser import Levels, Teacher, believed
from hasten.learning.students.compare import seen_as
from hasten.learning.students.continuous_consistency import slope_of_time
from hasten.learning.students.conversion import Conversion
from hasten.learning.students.progressive import halves
from hasten.learning.students.student import learn_student
from hasten.learning.students.trajectories import between, walks
from hasten.measuring.features import FeatureNet
from hasten.training.objective import Batch
from hasten.training.recipe import StudentRecipe, load_recipe
from hasten.tuning.space import distilled_students

OBJECTIVES = {
    "consistency": 2,
    "consistency-distillation": 2,
    "consistency-training": 2,
    "improved-consistency": 2,
    "continuous-consistency": 2,
    "direct": 1,
    "direct(power=1)": 2,
    "imitation": 4,
    "progressive(first=8)": 2,
    "trajectory": 2,
    "matching": 1,
    "reflow": 1,
    "shortcut(finest=2)": 1,
}
DATA = ("consistency", "improved", "continuous", "progressive", "shortcut", "imitation")


def recipe(objective: str, data: str, /, **changes) -> StudentRecipe:
    fields = {
        "objective": objective,
        "evaluations": OBJECTIVES[objective],
        "data": data if objective.startswith(DATA) else None,
        "pictures": 16 * 12,
        "walks": 24,
        "walk_steps": 4,
        "optimizer": {"rate": 1e-3, "batch": 16, "warmup": 0},
        "checkpoint_every": 16 * 3,
        "preview_every": 0,
    }
    return StudentRecipe(**{**fields, **changes})


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_objective_makes_a_folder_that_samples_by_its_own_plan(
    objective, teacher, data, tmp_path
):
    out = learn_student(teacher, recipe(objective, data), tmp_path / "student", quiet=True)
    student = hasten.load(out)
    assert student.teacher == teacher.sha256
    sampler = hasten.build(student)
    assert sampler.evaluations == OBJECTIVES[objective]
    assert sampler.sample(3, cond=1).isfinite().all()
    named = Plan(student=str(out))
    assert torch.equal(hasten.build(teacher, named).sample(2, cond=1), sampler.sample(2, cond=1))
    assert "evaluations" in (out / "README.md").read_text()


def room(objective: str, teacher: Model, count: int = 8) -> tuple:
    """The objective's loss, its module, a batch, and the student."""
    part = objectives.parse(objective)
    kind = part.student(teacher)
    net = tiny_attentive(1).train()
    student = hasten.core.model.Model(**{**vars(kind), "net": net})
    stage = part.stages(OBJECTIVES.get(objective, 1))[0]
    classroom = Classroom(teacher=Teacher(model=teacher), student=student, before=student)
    draws = generator(3)
    shape = (count, 1, 8, 8)
    if part.needs == "paths":
        states = 1 + sum(len(c) - 1 for c in part.courses(teacher.schedule, stage.evaluations))
        shape = (count, states, 1, 8, 8)
    rows = torch.randn(shape, generator=draws).clamp(-1, 1)
    batch = Batch(rows=rows, labels=torch.arange(count) % 2, generator=generator(4))
    return part.objective(classroom, stage), part.module(classroom), batch, student


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_gradients_reach_every_weight_of_the_student(objective, teacher):
    loss, module, batch, _ = room(objective, teacher)
    value = loss.loss(module, batch)
    value.backward()
    assert torch.isfinite(value)
    lost = [name for name, p in alone(module).named_parameters() if p.grad is None]
    assert lost == []


class Exact(torch.nn.Module):
    """The v of data N(0, spread^2): what a perfectly trained network tells, so that its x0 is the
    mean; `consistent` gives the end of the ODE through x instead."""

    def __init__(self, model_schedule, consistent: bool, spread: float = 0.5) -> None:
        super().__init__()
        self.schedule, self.consistent, self.spread = model_schedule, consistent, spread

    def forward(self, x, t, cond=None):
        table = torch.tensor(self.schedule.alphas_cumprod, dtype=torch.float64)
        half_log_snr = 0.5 * (table / (1 - table)).log().float()
        low = t.detach().long().clamp(0, len(table) - 2)
        begin, end = half_log_snr[low], half_log_snr[low + 1]
        between = (begin + (t - low) * (end - begin)).view(-1, 1, 1, 1)
        alpha, sigma = (torch.sigmoid(sign * 2 * between).sqrt() for sign in (1, -1))
        width = (alpha**2 * self.spread**2 + sigma**2).sqrt()
        if self.consistent:
            x0 = self.spread * x / width
        else:
            x0 = alpha * self.spread**2 / width**2 * x
        return (alpha * x - x0) / sigma


def gaussian(consistent: bool, spread: float = 0.5) -> Model:
    schedule = ddpm_schedule()
    kind = {"schedule": schedule, "prediction": prediction("v"), "shape": (1, 8, 8)}
    return Model(net=Exact(schedule, consistent, spread), name="gaussian", **kind)


def tuition(objective: str, student: Model, teacher: Model, step: int = 0, progress: float = 0.99):
    part = objectives.parse(objective)
    stage = part.stages(2)[0]
    classroom = Classroom(teacher=Teacher(model=teacher), student=student, before=teacher)
    rows = 0.5 * torch.randn(512, 1, 8, 8, generator=generator(5))
    batch = Batch(rows=rows, labels=None, generator=generator(6), step=step, progress=progress)
    return float(part.objective(classroom, stage).loss(part.module(classroom), batch).detach())


@pytest.mark.parametrize(
    "objective", ["consistency-distillation(levels=60)", "progressive(first=64)"]
)
def test_the_teachers_own_solution_has_hardly_any_loss(objective):
    """Along the ODE of Gaussian data the consistency function and the two-step target are known."""
    solved = gaussian(objective.startswith("consistency"))
    other = gaussian(not objective.startswith("consistency"))
    teacher = gaussian(consistent=False)
    right = tuition(objective, solved, teacher)
    if objective.startswith("consistency"):
        assert right < 0.05 * tuition(objective, other, teacher)
    else:  # 32 DDIM steps in the place of 64 are as near as the step is small
        assert right < 2e-3


def test_the_continuous_tangent_vanishes_at_the_consistency_function():
    """Along the teacher's ODE the derivative of the consistency function is zero (2410.11081)."""
    teacher = gaussian(consistent=False)
    right = tuition("continuous-consistency", gaussian(True), teacher)
    wrong = tuition("continuous-consistency", gaussian(False), teacher)
    assert right < 0.05 * wrong


def test_the_slope_of_time_is_that_of_the_path():
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
        def forward(self, x, t, cond=None):
            s = (t % 1000).clamp(min=1e-3) / 1000
            s = torch.where(t % 1000 == 0, torch.ones_like(s), s)
            return x / s.view(-1, 1, 1, 1)

    part = objectives.parse("shortcut(finest=3)")
    student = Model(net=Point(), schedule=Flow(), prediction=prediction("flow"), shape=(1, 4, 4))
    classroom = Classroom(teacher=Teacher(model=student), student=student, before=student)
    rows = torch.zeros(64, 1, 4, 4)
    batch = Batch(rows=rows, labels=None, generator=generator(8))
    loss = part.objective(classroom, part.stages(1)[0]).loss(student.net, batch)
    assert float(loss) < 1e-4


def test_walks_end_where_the_ode_ends(tmp_path):
    """On Gaussian data the ODE scales: its end is spread / width of the state it began at."""
    model, beside = gaussian(consistent=False, spread=0.2), tmp_path / "student.run"
    schedule = model.schedule
    middle = schedule.at(400.0)
    course = (schedule.at(schedule.noisy), middle, schedule.at(schedule.clean))
    held = walks(model, [course], beside, count=6, steps=24)
    rows = held.at(np.arange(6), (0,), torch.device("cpu"))
    assert rows.shape == (6, 3, 1, 8, 8)
    width = (0.04 * middle.alpha**2 + middle.sigma**2) ** 0.5
    assert float((rows[:, 1] - width * rows[:, 0]).abs().max()) < 5e-3
    assert float((rows[:, 2] - 0.2 * rows[:, 0]).abs().max()) < 5e-3
    times = [file.stat().st_mtime_ns for file in held.files]
    again = walks(model, [course], tmp_path / "other.run", count=6, steps=24)
    assert [file.stat().st_mtime_ns for file in again.files] == times


@pytest.mark.parametrize("schedule", [ddpm_schedule(), EDM(), Flow()])
def test_the_levels_between_two_fall_and_are_as_many_as_asked(schedule):
    for end in (schedule.at(schedule.position(1.0)), schedule.at(schedule.clean)):
        levels = between(schedule, schedule.at(schedule.noisy), end, 7)
        snr = [level.half_log_snr for level in levels]
        assert len(levels) == 8
        assert all(a < b for a, b in itertools.pairwise(snr))


@pytest.fixture(scope="module")
def start(teacher, data, tmp_path_factory) -> str:
    file = tmp_path_factory.mktemp("starts") / "gaussian.safetensors"
    learn_start(teacher, "gaussian", file, data=data)
    return f"gaussian(ratio=3, file={str(file)!r})"


@pytest.mark.parametrize("objective", ["consistency", "continuous-consistency", "trajectory"])
def test_a_student_of_a_start_learns_the_levels_below_it(objective, teacher, data, start, tmp_path):
    made = recipe(objective, data, start=start)
    student = hasten.load(learn_student(teacher, made, tmp_path / "student", quiet=True))
    assert student.schedule == teacher.schedule
    sampler = hasten.build(student)
    assert sampler.evaluations == 2
    assert sampler.levels[0].ratio == pytest.approx(3, rel=1e-3)
    assert sampler.sample(2, cond=1).isfinite().all()
    # A network that tells the noise knows enough at that level: it need not learn to tell v.
    assert student.prediction.part_name == "v" if "continuous" in objective else "epsilon"


def test_walks_of_a_start_begin_where_it_does(teacher, start, tmp_path):
    schedule = starts.parse(start).shortened(teacher.schedule)
    ends = [(schedule.at(schedule.noisy), schedule.at(schedule.clean))]
    held = walks(teacher, ends, tmp_path / "s.run", count=3, steps=4, start=start)
    rows = held.at(np.arange(3), (0,), torch.device("cpu"))
    plan = Plan(solver="dpmpp(order=3)", grid="log-snr", steps=4, start=start)
    sampler = hasten.build(teacher, plan)
    noise = torch.stack([torch.randn(1, 8, 8, generator=generator(3_000_003, i)) for i in range(3)])
    began = sampler.begin(noise, ends[0][0], held.labels)
    assert float((rows[:, 0] * ends[0][0].spread - began).abs().max()) < 1e-2
    assert float((rows[:, 0] - noise).abs().max()) > 0.1


def test_a_student_begins_with_the_weights_of_another(teacher, data, tmp_path):
    first = learn_student(teacher, recipe("direct", data), tmp_path / "first", quiet=True)
    still = {"begin": str(first), "optimizer": {"rate": 1e-12, "batch": 16, "warmup": 0}}
    made = recipe("matching", data, **still)
    second = hasten.load(learn_student(teacher, made, tmp_path / "second", quiet=True))
    before = hasten.load(first)
    assert second.prediction == before.prediction
    pairs = zip(before.net.parameters(), second.net.parameters(), strict=True)
    assert max(float((a - b).abs().max()) for a, b in pairs) < 1e-6
    for objective, changes, words in (
        ("reflow", still, "Drop begin"),
        ("shortcut(finest=2)", still, "drop begin"),
        ("direct", {**still, "lora": 2}, "do not go together"),
        ("direct", {"begin": str(tmp_path / "none")}, "student"),
    ):
        with pytest.raises(UserError, match=words):
            learn_student(teacher, recipe(objective, data, **changes), tmp_path / "s", quiet=True)


def test_a_start_of_the_teachers_samples_is_the_students_too(teacher, data, tmp_path):
    file = tmp_path / "gaussian.safetensors"
    learn_start(teacher, "gaussian", file, n=40)
    made = recipe("direct", data, start=f"gaussian(ratio=3, file={str(file)!r})")
    student = hasten.load(learn_student(teacher, made, tmp_path / "student", quiet=True))
    assert hasten.build(student).sample(2, cond=1).isfinite().all()
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
        ("matching", {"objective": "matching(middle=4.0)", "evaluations": 2}, "middle is 4"),
        ("direct", {"objective": "direct(middle=4.0)", "evaluations": 2}, "middle is 4"),
        ("direct", {"start": "noise", "begin": "nowhere"}, "nowhere"),
    ],
)
def test_a_start_is_refused_where_it_cannot_be(objective, changes, words, teacher, data, tmp_path):
    made = recipe(objective, data, **{"start": "gaussian(ratio=3, file='none')", **changes})
    with pytest.raises(UserError, match=words):
        learn_student(teacher, made, tmp_path / "s", quiet=True)
    assert list(tmp_path.iterdir()) == []  # before a walk is made or a step is taken


def test_a_run_that_was_ended_goes_on_to_the_same_weights(teacher, data, tmp_path, monkeypatch):
    from hasten.training import checkpoint

    made = recipe("consistency-distillation", data)
    whole = hasten.load(learn_student(teacher, made, tmp_path / "whole", quiet=True))
    real = checkpoint.save

    def save(run, step, *rest):
        real(run, step, *rest)
        if run.name != "convert" and step == 6:
            raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "save", save)
    with pytest.raises(KeyboardInterrupt):
        learn_student(teacher, made, tmp_path / "cut", quiet=True)
    monkeypatch.setattr(checkpoint, "save", real)
    cut = hasten.load(learn_student(teacher, made, tmp_path / "cut", quiet=True))
    pairs = zip(whole.net.parameters(), cut.net.parameters(), strict=True)
    assert max(float((a - b).abs().max()) for a, b in pairs) == 0


def test_conversion_wants_what_the_teacher_believes_and_no_more():
    teacher = gaussian(consistent=False)
    same = Conversion(student=teacher, teacher=Teacher(model=teacher))
    rows = 0.5 * torch.randn(64, 1, 8, 8, generator=generator(5)).clamp(-2, 2)
    batch = Batch(rows=rows, labels=None, generator=generator(6))
    # Where the teacher is asked the student is right already; elsewhere single pictures scatter.
    assert float(same.loss(teacher.net, batch)) < 0.3 * 0.25
    lying = Conversion(student=teacher, teacher=Teacher(model=gaussian(consistent=True)))
    again = Batch(rows=rows, labels=None, generator=generator(6))
    assert float(lying.loss(teacher.net, again)) > float(same.loss(teacher.net, again))


def test_every_round_of_progressive_distillation_is_kept(teacher, data, tmp_path):
    out = tmp_path / "student"
    learn_student(teacher, recipe("progressive(first=8)", data), out, quiet=True)
    kept = sorted(schedule.name for schedule in (tmp_path / "student.run" / "students").iterdir())
    assert kept == ["00002", "00004"]
    four = hasten.load(tmp_path / "student.run" / "students" / "00004")
    assert hasten.build(four).evaluations == 4


def test_one_trajectory_student_serves_several_numbers_of_evaluations(teacher, data, tmp_path):
    made = recipe("trajectory", data, objective="trajectory(fewest=2)", evaluations=4)
    student = hasten.load(learn_student(teacher, made, tmp_path / "student", quiet=True))
    counts = [hasten.build(student, Plan(**fields)).evaluations for fields in student.plans]
    assert counts == [4, 3, 2]
    tops = [Plan(**fields).levels(student.schedule)[0].t for fields in student.plans]
    assert tops == sorted(tops, reverse=True)
    assert len(set(tops)) == 3


def test_stock_diffusers_samples_a_student_of_one_evaluation(teacher, data, tmp_path):
    import diffusers

    out = learn_student(teacher, recipe("direct", data), tmp_path / "student", quiet=True)
    net = diffusers.UNet2DModel.from_pretrained(out / "unet")
    scheduler = diffusers.DDIMScheduler.from_pretrained(
        out / "scheduler", timestep_spacing="trailing", set_alpha_to_one=True
    )
    scheduler.set_timesteps(1)
    noise = torch.randn(2, 1, 8, 8, generator=generator(1))
    with torch.no_grad():
        answer = net(noise, scheduler.timesteps[0], class_labels=torch.tensor([1, 1])).sample
    theirs = scheduler.step(answer, scheduler.timesteps[0], noise).prev_sample
    student = hasten.load(out)
    spread = student.schedule.at(student.schedule.noisy).spread
    mine = hasten.build(student).sample(noise=noise / spread, cond=1, raw=True)
    assert torch.allclose(mine, theirs, atol=1e-4)


@pytest.mark.parametrize(
    ("objective", "changes", "words"),
    [
        ("direct", {"objective": "direct(middle=1e5)", "evaluations": 2}, "middle"),
        ("progressive(first=8)", {"evaluations": 3}, "power of two"),
        ("progressive(first=8)", {"evaluations": 8}, "first"),
        ("shortcut(finest=2)", {"evaluations": 8}, "power of two"),
        ("consistency", {"data": None}, "--data"),
        ("consistency", {"data": "nowhere.parquet"}, "nowhere"),
        ("trajectory", {"objective": "trajectory(fewest=5)"}, "fewest"),
        ("trajectory", {"compare": "features"}, "drop compare"),
        ("direct", {"data": "some.parquet"}, "drop data"),
        ("consistency", {"guidance": 2.0}, "never asks the teacher"),
        ("shortcut(finest=2)", {"guidance": 2.0}, "never asks the teacher"),
    ],
)
def test_what_an_objective_cannot_take_is_refused(
    objective, changes, words, teacher, data, tmp_path
):
    with pytest.raises(UserError, match=words):
        learn_student(teacher, recipe(objective, data, **changes), tmp_path / "s", quiet=True)
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize("text", ["progressive(first=6)", "consistency(q=0.5)", "nothing"])
def test_an_objective_that_is_none_is_refused_before_anything_starts(text):
    with pytest.raises(UserError, match="objective"):
        StudentRecipe(objective=text)


def test_direct_of_several_evaluations_is_asked_about_every_state_of_its_plan(teacher):
    objective = objectives.parse("direct(power=1, middle=0.7)")
    course = objective.courses(teacher.schedule, 2)[0]
    assert [round(level.ratio, 3) for level in course[1:]] == [0.7, 0.0]
    room = Classroom(teacher=Teacher(model=teacher), student=teacher, before=teacher)
    loss = objective.objective(room, Stage(name="direct", evaluations=2))
    states = [torch.full((16, 1, 8, 8), value) for value in (0.5, 2.0, 0.0)]
    asked = []

    def net(x, t, cond):
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


def test_continuous_consistency_refuses_a_path_that_keeps_no_variance(teacher, data, tmp_path):
    kind = {"schedule": EDM(), "prediction": prediction("edm"), "shape": (1, 8, 8)}
    model = Model(net=tiny_attentive(), labels=2, null_label=2, **kind)
    with pytest.raises(UserError, match="variance-preserving"):
        learn_student(model, recipe("continuous-consistency", data), tmp_path / "s", quiet=True)


def test_a_run_of_another_recipe_is_refused_and_says_what_differs(teacher, data, tmp_path):
    learn_student(teacher, recipe("direct", data), tmp_path / "s", quiet=True)
    other = recipe("direct", data, seed=5)
    with pytest.raises(UserError, match="seed: 5, there 0"):
        learn_student(teacher, other, tmp_path / "s", quiet=True)


def test_a_student_of_other_weights_is_refused_in_a_plan(teacher, data, tmp_path):
    out = learn_student(teacher, recipe("direct", data), tmp_path / "student", quiet=True)
    facts = json.loads((out / "hasten.json").read_text())
    other = Model(**{**vars(teacher), "net": tiny_attentive(7), "sha256": "", "folder": None})
    with pytest.raises(UserError, match="other weights"):
        hasten.build(other, Plan(student=str(out)))
    allowed = Plan(student=str(out), other_weights=True)
    assert hasten.build(other, allowed).sample(1, cond=0).isfinite().all()
    assert facts["plans"][0]["steps"] == 1
    with pytest.raises(UserError, match="no folder"):
        Plan(student="nowhere")


def test_a_step_that_does_not_fit_into_memory_is_taken_in_parts(
    teacher, data, tmp_path, monkeypatch
):
    from hasten.learning.students.direct import Regression

    real, sizes = Regression.loss, []

    def loss(self, net, batch):
        sizes.append(len(batch.rows))
        if len(batch.rows) > 4:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return real(self, net, batch)

    monkeypatch.setattr(Regression, "loss", loss)
    learn_student(teacher, recipe("direct", data, convert=0.0), tmp_path / "s", quiet=True)
    assert sizes[:3] == [16, 8, 4]
    assert set(sizes[3:]) == {4}


def test_features_see_beside_pixels():
    model = hasten.load("builtin:mnist")
    seen = seen_as(model, "features")
    x0 = torch.rand(2, *model.shape, generator=generator(1)) * 2 - 1
    x0.requires_grad_(True)
    numbers = seen(x0)
    assert torch.equal(numbers[:, : x0[0].numel()], x0.flatten(1))
    # Each of six maps has unit length at every place: as much as a picture of unit contrast.
    total = numbers[:, x0[0].numel() :].square().sum(1) / x0[0].numel()
    assert (total <= 6.01).all()
    assert (total > 3).all()
    (numbers[0] - numbers[1]).square().sum().backward()
    assert torch.isfinite(x0.grad).all()
    assert float(x0.grad.abs().min()) > 0


def test_features_are_refused_where_there_are_none(teacher, data, tmp_path):
    with pytest.raises(UserError, match="no classifier lies beside"):
        learn_student(
            teacher, recipe("consistency", data, compare="features"), tmp_path / "s", quiet=True
        )


def test_believed_is_what_the_sampler_is_told(teacher):
    x = torch.randn(2, 1, 8, 8, generator=generator(2))
    cond = torch.tensor([0, 1])
    level = teacher.schedule.at(300.0)
    mine = believed(teacher, teacher.net, x, Levels.same(level, 2), cond)
    theirs = hasten.build(teacher).denoiser(x, level, cond)
    assert torch.allclose(mine, theirs, atol=1e-5)


def test_stages_of_progressive_distillation_halve():
    names = [stage.evaluations for stage in objectives.parse("progressive(first=16)").stages(1)]
    assert names == [8, 4, 2, 1]
    assert Stage(name="x").share == 1.0


def test_the_command_line_distils_and_names_what_is_wrong(teacher, data, tmp_path):
    from hasten.cli import main

    def ran(*words: str) -> int:
        try:
            main(["learn", "student", *words])
        except SystemExit as stop:
            return int(stop.code or 0)
        return 0

    base = [str(teacher.folder), "--pictures", "64", "--batch", "16", "--quiet"]
    out = tmp_path / "student"
    assert ran(*base, "--data", data, "--out", str(out)) == 0
    assert hasten.build(hasten.load(out)).evaluations == 2
    assert ran(*base, "--out", str(tmp_path / "x")) == 2  # no data
    assert ran(*base, "--objective", "telepathy", "--out", str(tmp_path / "x")) == 2
    assert ran(*base, "--prompts", str(tmp_path / "none.txt"), "--out", str(tmp_path / "x")) == 2
    assert ran(*base, "--evaluations", "0", "--out", str(tmp_path / "x")) == 2
    assert not (tmp_path / "x").exists()


def test_the_student_that_ships_draws_the_digit_that_is_wanted():
    model = hasten.load("builtin:mnist")
    plans = [plan for plan in distilled_students(model, 1.0) if plan.student == "builtin:mnist-2"]
    assert [hasten.build(model, plan).evaluations for plan in plans] == [2, 1]
    features, wanted = FeatureNet.for_model(model), [i % 10 for i in range(60)]
    assert features is not None
    for plan in plans:
        pictures = hasten.build(model, plan).sample(60, seed=1, cond=wanted)
        found = features.net(pictures).argmax(1)
        assert int((found == torch.tensor(wanted)).sum()) >= 54, plan
    assert distilled_students(model, 2.0) == []


@pytest.mark.parametrize("name", ["mnist-student.yaml", "mnist-student-finish.yaml"])
def test_the_shipped_recipe_of_a_student_is_valid(name):
    made = load_recipe(Path(__file__).parents[3] / "recipes" / name, StudentRecipe)
    assert made.evaluations == 2
    assert starts.parse(made.start).learned_for() is None  # of real pictures
    with pytest.raises(UserError, match="StudentRecipe"):
        load_recipe(Path(__file__).parents[3] / "recipes" / "mnist.yaml", StudentRecipe)


def test_another_precision_needs_another_process(teacher, data, tmp_path):
    learn_student(teacher, recipe("direct", data), tmp_path / "one", quiet=True)
    with pytest.raises(UserError, match="new process"):
        learn_student(
            teacher, recipe("direct", data, precision="bf16"), tmp_path / "two", quiet=True
        )
