"""Recipes of students: the shipped ones, and files that an older version wrote."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from hasten.core.errors import UserError
from hasten.core.start import starts
from hasten.learning.students.recipe import StudentRecipe
from hasten.training.recipe import Recipe, load_recipe

RECIPES = Path(__file__).parents[3] / "recipes"


@pytest.mark.parametrize("name", ["mnist-student.yaml", "mnist-student-finish.yaml"])
def test_the_shipped_recipe_of_a_student_is_valid(name):
    made = load_recipe(RECIPES / name, StudentRecipe)
    assert made.evaluations == 2
    assert starts.parse(made.start).learned_for() is None  # of real pictures


def test_a_recipe_of_another_kind_is_refused():
    with pytest.raises(UserError, match=r"has no objective, and a StudentRecipe is needed"):
        load_recipe(RECIPES / "mnist.yaml", StudentRecipe)
    with pytest.raises(UserError, match=r"has objective 'consistency-dist.*a Recipe is needed"):
        load_recipe(RECIPES / "mnist-student.yaml", Recipe)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ({"objective": "matching"}, {"objective": "dmd"}),
        ({"objective": "matching(every=3)"}, {"objective": "dmd(every=3)"}),
        ({"objective": "imitation"}, {"objective": "knowledge-distillation"}),
        (
            {"objective": "imitation(features=0.5)"},
            {"objective": "knowledge-distillation(features=0.5)"},
        ),
        (
            {"objective": "direct", "walks": 30, "walk_steps": 7},
            {"objective": "direct", "trajectories": 30, "trajectory_steps": 7},
        ),
        (
            {"objective": "direct", "judged": 40},
            {"objective": "direct", "validation_pictures": 40},
        ),
    ],
)
def test_a_file_of_an_older_version_keeps_loading(old, new, tmp_path):
    file = tmp_path / "student.yaml"
    file.write_text(yaml.safe_dump(old))
    assert load_recipe(file, StudentRecipe) == StudentRecipe(**new)
    changed = load_recipe(file, StudentRecipe, trajectories=9)
    assert changed.trajectories == 9


@pytest.mark.parametrize("text", ["progressive(first=6)", "consistency(q=0.5)", "nothing"])
def test_an_objective_that_is_none_is_refused_before_anything_starts(text):
    with pytest.raises(UserError, match="objective"):
        StudentRecipe(objective=text)
