"""The plans that the tuner considers."""

from __future__ import annotations

import dataclasses

import pytest
from tuning_fakes import REFERENCE, SMALL, gaussian_model

import hasten
from hasten.adapters.folder import save_folder
from hasten.learning.starts.starts import learn_start
from hasten.levers.student import Student
from hasten.tuning.requests import Screen
from hasten.tuning.space import (
    Space,
    distilled_students,
    files_beside,
    learned_files,
    smaller_networks,
)
from hasten.tuning.trials import TrialExecutor


@pytest.fixture
def model(tiny_model, tmp_path):
    folder = tmp_path / "model"
    save_folder(tiny_model(), folder)
    return hasten.load(folder)


def test_every_solver_on_every_grid_is_a_ladder_of_rising_steps():
    model = gaussian_model()
    ladders, unsupported = SMALL.ladders(model, 1.0)
    # Three solvers, two grids, with and without clipping to the bound of pixels.
    assert len(ladders) == 3 * 2 * 2
    assert unsupported == []
    for ladder in ladders:
        assert [plan.steps for plan in ladder.plans] == list(SMALL.steps)


def test_plans_that_begin_at_the_gaussians_beside_a_model_are_considered(model):
    assert Space().early_starts(model, 1.0) == []
    learn_start(model, "gaussian", model.folder / "starts" / "gaussian.safetensors", n=60)
    (name,) = files_beside(model, "starts", "*.safetensors")
    plans = Space(grids=("uniform",), steps=(2, 5)).early_starts(model, 1.0)
    assert {plan.steps for plan in plans} == {2, 5}
    assert all(f"file={name!r}" in plan.start for plan in plans)
    hasten.build(model, plans[0]).sample(1)


def test_students_beside_the_folder_of_their_teacher_are_considered(model):
    assert distilled_students(model, 1.0) == []
    fields = {"solver": "ddim", "grid": "uniform", "steps": 1}
    kind = {"teacher": model.sha256, "plans": (fields, {**fields, "steps": 2}), "name": "quick"}
    save_folder(dataclasses.replace(model, **kind), model.folder.parent / "quick")
    other = dataclasses.replace(model, **{**kind, "teacher": "0" * 64})
    save_folder(other, model.folder.parent / "other")
    plans = distilled_students(model, 1.0)
    assert [plan.steps for plan in plans] == [1, 2]
    assert {plan.lever("student") for plan in plans} == {
        Student(folder=str(model.folder.parent / "quick"))
    }
    assert distilled_students(model, 2.0) == []  # it was distilled without guidance
    guided = dataclasses.replace(model, **{**kind, "guidance": 2.0})
    save_folder(guided, model.folder.parent / "guided")
    assert [plan.guidance for plan in distilled_students(model, 2.0)] == [1.0, 1.0]
    assert len(distilled_students(model, 1.0)) == 2
    assert smaller_networks(model) == []  # this one does not predict what its teacher does
    assert hasten.build(model, plans[0]).evaluations == 1
    request = Screen(plan=plans[0], samples=8, reference=REFERENCE)
    assert TrialExecutor(model=model).answer(request).evaluations == 1


def test_what_was_learned_for_a_model_has_a_digest_each():
    files = learned_files(hasten.load("builtin:mnist"))
    assert any("/programs/" in name for name in files)
    assert any("/starts/" in name for name in files)
    assert "builtin:mnist-2" in files
    assert all(len(value) == 64 for value in files.values())
