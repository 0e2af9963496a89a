"""The scripts in examples/ run, with small budgets and nothing from the network."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture(autouse=True)
def _registries_stay_as_they_are(monkeypatch):
    """Forget the parts that a page or an example adds."""
    from hasten.core.lever import levers
    from hasten.core.solver import solvers

    for registry in (levers, solvers):
        list(registry)  # everything that ships is known before
        monkeypatch.setattr(registry, "_known", dict(registry._known))


@pytest.fixture
def main_of(monkeypatch, tmp_path):
    """The function ``main`` of an example, to be called in an empty folder, offline."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return lambda name: runpy.run_path(str(EXAMPLES / f"{name}.py"))["main"]


@pytest.mark.parametrize("file", sorted(EXAMPLES.glob("*.py")), ids=lambda file: file.stem)
def test_an_example_is_short(file):
    assert len(file.read_text(encoding="utf-8").splitlines()) < 40


def test_a_tuned_plan_is_written_and_sampled(main_of, tmp_path):
    import hasten
    from hasten.tuning.settings import TunerSettings
    from hasten.tuning.space import Space

    settings = TunerSettings(
        reference_sizes=((4, 20),),
        baseline_steps=2,
        report_s=0.0,
        race_s=0.1,
        race_rounds=2,
        random_draws=4,
        level_trials=2,
        level_random_trials=1,
        screening_samples=60,
        final_samples=(60,),
        fresh_processes=0,
        parallel_s=0.0,
        parallel_steps=5,
        parallel_rounds=1,
    )
    space = Space(
        solvers=("ddim",),
        grids=("uniform",),
        steps=(2, 3),
        engines=(("eager", "float32"),),
        programs=False,
        students=False,
        noisy=(),
        early=(),
    )
    pipe = runpy.run_path(str(EXAMPLES / "use_a_plan_in_a_pipeline.py"))["tiny_pipeline"]()
    tuning = main_of("tune_a_model")(pipe, minutes=1000.0, space=space, settings=settings)
    assert hasten.Plan.read(tmp_path / "tuned" / "plan.json") == tuning.best
    assert len(list((tmp_path / "tuned").glob("*.png"))) == 4


def test_a_pipeline_runs_a_plan(main_of):
    pictures = main_of("use_a_plan_in_a_pipeline")("solver=unipc,steps=3")
    assert [picture.size for picture in pictures] == [(16, 16), (16, 16)]


@pytest.mark.slow
def test_a_program_is_learned_and_loads(main_of, tmp_path, capsys):
    learned = main_of("learn_a_program")(
        pairs=8, steps=2, evaluations=2, held_out=8, teacher_steps=10
    )
    assert learned.program == "four.json"
    assert (tmp_path / "four.json").is_file()
    assert capsys.readouterr().out.count("ODE error") == 2


def test_solvers_are_compared(main_of):
    errors = main_of("compare_solvers")(steps=4, n=2)
    assert len(errors) == 5
    assert all(0 < error < 1 for error in errors.values())


def test_a_new_solver_runs_in_order_and_parallel_in_time(main_of):
    in_order, together = main_of("write_a_solver")(steps=4)
    assert (in_order - together).abs().max() < 1e-4


@pytest.mark.parametrize("name", ["first_steps", pytest.param("editing", marks=pytest.mark.slow)])
def test_the_cells_of_a_notebook_run_from_top_to_bottom(monkeypatch, tmp_path, name):
    monkeypatch.chdir(tmp_path)
    notebook = json.loads((EXAMPLES / f"{name}.ipynb").read_text(encoding="utf-8"))
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert len(cells) > 3
    assert not any(cell["outputs"] for cell in cells)
    names: dict[str, object] = {}
    for cell in cells:
        exec("".join(cell["source"]), names)
