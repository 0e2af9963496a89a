"""Students as folders: stages, exact resume, refusals, the command line."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch

import hasten
from conftest import tiny_attentive
from hasten.core.errors import UserError
from hasten.core.model import Model
from hasten.core.plan import Plan
from hasten.core.random_streams import generator
from hasten.learning.students.student import learn_student
from hasten.levers.student import Student
from hasten.measuring.features import FeatureNet
from hasten.tuning.space import distilled_students
from student_recipes import recipe


@pytest.mark.slow
def test_a_student_begins_with_the_weights_of_another(teacher, data, tmp_path):
    first = learn_student(teacher, recipe("direct", data), tmp_path / "first", quiet=True)
    still = {"begin": str(first), "optimizer": {"rate": 1e-12, "batch": 16, "warmup": 0}}
    made = recipe("dmd", data, **still)
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_every_round_of_progressive_distillation_is_kept(teacher, data, tmp_path):
    out = tmp_path / "student"
    learn_student(teacher, recipe("progressive(first=8)", data), out, quiet=True)
    kept = sorted(schedule.name for schedule in (tmp_path / "student.run" / "students").iterdir())
    assert kept == ["00002", "00004"]
    four = hasten.load(tmp_path / "student.run" / "students" / "00004")
    assert hasten.build(four).evaluations == 4


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
    mine = hasten.build(student).sample(noise=noise / spread, condition=1, raw=True)
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
        ("consistency", {"guidance": 2.0}, "never evaluates the teacher"),
        ("shortcut(finest=2)", {"guidance": 2.0}, "never evaluates the teacher"),
    ],
)
def test_what_an_objective_cannot_take_is_refused(
    objective, changes, words, teacher, data, tmp_path
):
    with pytest.raises(UserError, match=words):
        learn_student(teacher, recipe(objective, data, **changes), tmp_path / "s", quiet=True)
    assert not (tmp_path / "s").exists()


def test_guidance_is_that_of_the_teachers_own_plan(teacher, data, tmp_path):
    guided = dataclasses.replace(teacher, plans=({"guidance": 3.0},))
    out = learn_student(guided, recipe("direct", data), tmp_path / "guided", quiet=True)
    assert "guidance 3" in (out / "README.md").read_text(encoding="utf-8")
    own = learn_student(guided, recipe("consistency", data), tmp_path / "own", quiet=True)
    assert "guidance" not in (own / "README.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_a_run_of_another_recipe_is_refused_and_says_what_differs(teacher, data, tmp_path):
    learn_student(teacher, recipe("direct", data), tmp_path / "s", quiet=True)
    other = recipe("direct", data, seed=5)
    with pytest.raises(UserError, match="seed: 5, there 0"):
        learn_student(teacher, other, tmp_path / "s", quiet=True)


def test_a_student_of_other_weights_is_refused_in_a_plan(teacher, data, tmp_path):
    out = learn_student(teacher, recipe("direct", data), tmp_path / "student", quiet=True)
    facts = json.loads((out / "hasten.json").read_text())
    named = f"student(folder={str(out)!r})"
    other = Model(**{**vars(teacher), "net": tiny_attentive(7), "sha256": "", "folder": None})
    with pytest.raises(UserError, match="other weights"):
        hasten.build(other, Plan(levers=(named,)))
    allowed = Plan(levers=(named,), other_weights=True)
    assert hasten.build(other, allowed).sample(1, condition=0).isfinite().all()
    assert facts["plans"][0]["steps"] == 1
    with pytest.raises(UserError, match="no folder"):
        hasten.build(teacher, Plan(levers=("student(folder='nowhere')",)))


@pytest.mark.slow
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
    named = Student(folder="builtin:mnist-2")
    plans = [plan for plan in distilled_students(model, 1.0) if plan.lever("student") == named]
    assert [hasten.build(model, plan).evaluations for plan in plans] == [2, 1]
    features, wanted = FeatureNet.for_model(model), [i % 10 for i in range(60)]
    assert features is not None
    for plan in plans:
        pictures = hasten.build(model, plan).sample(60, seed=1, condition=wanted)
        found = features.net(pictures).argmax(1)
        assert int((found == torch.tensor(wanted)).sum()) >= 54, plan
    assert distilled_students(model, 2.0) == []


@pytest.mark.slow
def test_another_precision_needs_another_process(teacher, data, tmp_path):
    learn_student(teacher, recipe("direct", data), tmp_path / "one", quiet=True)
    with pytest.raises(UserError, match="new process"):
        learn_student(
            teacher, recipe("direct", data, precision="bf16"), tmp_path / "two", quiet=True
        )
