"""Programs as matrices, learned programs, and the grids that are learned beside them."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch

import hasten
from conftest import no_noise, session_of
from hasten import Plan, build
from hasten.core.coefficient_matrix import CoefficientMatrix
from hasten.core.condition import Condition
from hasten.core.errors import UserError
from hasten.core.learned_program import LearnedProgram
from hasten.core.program import Program
from hasten.executors.sequential import Sequential
from hasten.learning.programs import fit
from hasten.learning.programs.fit import FitOptions
from hasten.learning.programs.program import learn_program
from hasten.learning.programs.reference_pairs import ReferenceOptions
from hasten.learning.programs.solver_coefficients import SolverCoefficients
from hasten.learning.programs.student_program import DifferentiableRun, StudentProgram
from hasten.learning.schedules.bezier import learn_bezier
from hasten.learning.schedules.dmn import dmn
from hasten.learning.schedules.gits import gits
from hasten.measuring.ode_error import reference
from hasten.training import checkpoint

PATH = hasten.schedule("ddpm")
FEW = ReferenceOptions(pairs=16, held_out=8, teacher_steps=12)
SHORT = FitOptions(batch=8, rate=0.02, steps=12)
DETERMINISTIC = (
    "ddim",
    "euler",
    "heun",
    "dpmpp(order=3)",
    "unipc(order=3)",
    "deis(order=3)",
    "ipndm",
)


def start(n=3):
    return torch.randn(n, 1, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("clip", [None, 0.4])
@pytest.mark.parametrize("solver", DETERMINISTIC)
def test_the_matrix_of_a_program_is_the_program(solver, clip, gaussian):
    program = Plan(solver=solver, grid="uniform", steps=5, clip=clip).trace(PATH)
    matrix = CoefficientMatrix.of(program)
    again = CoefficientMatrix.of(matrix.program())
    assert np.array_equal(again.matrix, matrix.matrix)
    assert again.levels == matrix.levels
    want = Sequential().run(program, {"x": start()}, session_of(gaussian))
    got = Sequential().run(matrix.program(), {"x": start()}, session_of(gaussian))
    # The same sums in another order, in float64.
    assert (got - want).abs().max() < 1e-12


@pytest.mark.parametrize("solver", ["ddpm", "ddim(eta=1.0)", "restart"])
def test_a_program_that_draws_noise_is_no_matrix(solver):
    with pytest.raises(UserError, match="noise"):
        CoefficientMatrix.of(Plan(solver=solver, grid="uniform", steps=5).trace(PATH))


@pytest.mark.parametrize("solver", ["ddim", "dpmpp(order=3)", "ipndm"])
def test_coefficients_is_the_solver(solver):
    plan = Plan(solver=solver, grid="uniform", steps=5)
    want = CoefficientMatrix.of(plan.trace(PATH))
    coefficients = SolverCoefficients(solver=plan.parts.solver, schedule=PATH)
    places = torch.tensor([[level.half_log_snr] for level in want.levels], dtype=torch.float64)
    student = StudentProgram(coefficients, places)
    got = student().coefficient_matrix(None)
    assert np.allclose(got.matrix, want.matrix, atol=1e-9)
    times = [[level.t for level in one.levels] for one in (got, want)]
    assert np.allclose(*times, atol=1e-6)


def test_the_gradient_of_a_table_is_that_of_its_numbers():
    coefficients = SolverCoefficients(
        solver=Plan(solver="dpmpp(order=3)").parts.solver, schedule=hasten.schedule("vp-linear")
    )
    places = torch.tensor([[-4.0], [-1.0], [0.5], [2.0]], dtype=torch.float64)
    told = torch.full_like(places, 0.1)
    weights = torch.randn(25, dtype=torch.float64)

    def number(values):
        table = coefficients.table(values, told)
        return (table.matrix.flatten() * weights).sum() + table.t.sum() + table.alpha.sum()

    places.requires_grad_(True)
    number(places).backward()
    with torch.no_grad():
        for row in range(1, 4):
            step = torch.zeros_like(places)
            step[row] = 1e-5
            slope = (number(places + step) - number(places - step)) / 2e-5
            # Central differences of two widths agree to the third derivative's share.
            assert abs(slope - places.grad[row]) < 1e-4 * max(1.0, abs(float(slope)))


def test_the_differentiable_run_is_the_sampler(tiny_model):
    model = tiny_model(labels=3)
    plan = Plan(solver="ipndm", grid="uniform", steps=4, clip=1.0, guidance=2.0)
    matrix = CoefficientMatrix.of(plan.trace(model.schedule))
    student = StudentProgram(
        SolverCoefficients(solver=Plan(solver="ipndm").parts.solver, schedule=model.schedule),
        torch.tensor([[level.half_log_snr] for level in matrix.levels], dtype=torch.float64),
    )
    noise, condition = torch.randn(2, *model.shape), torch.tensor([0, 2])
    want = build(model, plan).sample(noise=noise, condition=condition, raw=True)
    crossing = DifferentiableRun(model=model, guidance=2.0, clip=1.0)
    got = crossing(student(), noise * matrix.start.spread, condition)
    assert (got - want).abs().max() < 1e-4


@pytest.mark.slow
def test_wide_rounds_are_one_call_each(tiny_model, tmp_path):
    model = tiny_model(labels=3)
    found = learn_program(model, 3, tmp_path / "wide.json", width=2, references=FEW, options=SHORT)
    assert (found.program.evaluations, found.program.rounds) == (6, 3)
    assert CoefficientMatrix.of(found.program).depths == [0, 0, 1, 1, 2, 2]
    sampler = build(model, Plan(program=str(tmp_path / "wide.json")))
    seen = []
    together = sampler.sample(2, condition=[0, 1], watch=lambda call, x0: seen.append(call))
    assert seen == [0, 1, 2]

    class OneByOne:
        def __init__(self, denoiser):
            self.denoiser = denoiser

        def __call__(self, calls):
            return [answer for call in calls for answer in self.denoiser([call])]

    apart = dataclasses.replace(sampler, denoiser=OneByOne(sampler.denoiser))
    # Other batch sizes run other kernels: float32 sums in another order.
    assert (apart.sample(2, condition=[0, 1]) - together).abs().max() < 1e-4


def test_learning_brings_a_program_nearer(tiny_model, tmp_path):
    model = tiny_model()
    base = Plan(solver="ddim", grid="log-snr", steps=3)
    file = tmp_path / "three.json"
    learned = learn_program(
        model, 3, file, base=base, references=FEW, options=dataclasses.replace(SHORT, steps=40)
    )
    held = reference(model, 16, plan=FEW.plan)  # noise that no pair had
    before, after = (held.ode_error(plan) for plan in (base, Plan(program=str(file))))
    assert after.rmse < 0.8 * before.rmse
    assert learned.program.evaluations == 3
    assert learned.facts["ode_error"]["after"] < learned.facts["ode_error"]["before"]


def test_a_learned_program_runs_in_a_diffusers_scheduler(tiny_model, tmp_path):
    model = tiny_model()
    learn_program(model, 2, tmp_path / "two.json", references=FEW, options=SHORT)
    plan = Plan(program=str(tmp_path / "two.json"))
    scheduler = hasten.ProgramScheduler(
        hasten.trace(plan, model.schedule), prediction=model.prediction
    )
    noise = torch.randn(1, *model.shape)
    x = noise * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        with torch.no_grad():
            answer = model.net(x, t.expand(1))
        x = scheduler.step(answer, t, x).prev_sample
    want = build(model, plan).sample(noise=noise, raw=True)
    assert (x - want).abs().max() < 1e-4 * max(1.0, float(want.abs().max()))


def test_a_killed_run_ends_as_one_that_was_not(tiny_model, tmp_path, monkeypatch):
    model = tiny_model()
    options = {"base": Plan(solver="ddim", grid="log-snr"), "references": FEW, "options": SHORT}
    whole = learn_program(model, 2, tmp_path / "whole.json", **options)
    monkeypatch.setattr(fit, "CHECKPOINT", 3)
    loss = fit.OdeErrorLoss.loss

    def killed(self, net, batch):
        if batch.step == 7:
            raise KeyboardInterrupt
        return loss(self, net, batch)

    monkeypatch.setattr(fit.OdeErrorLoss, "loss", killed)
    with pytest.raises(KeyboardInterrupt):
        learn_program(model, 2, tmp_path / "part.json", **options)
    assert not (tmp_path / "part.json").exists()
    newest = checkpoint.newest(tmp_path / "part.json.run")
    assert newest is not None
    assert newest.name == "step-000000006"
    monkeypatch.setattr(fit.OdeErrorLoss, "loss", loss)
    part = learn_program(model, 2, tmp_path / "part.json", **options)
    assert part.program == whole.program
    assert part.facts == whole.facts
    with pytest.raises(UserError, match="another recipe"):
        learn_program(
            model, 2, tmp_path / "part.json", **{**options, "options": FitOptions(steps=9)}
        )


def test_a_run_that_an_older_version_wrote_is_refused_by_name(tiny_model, tmp_path):
    tensors = {"student": {"sticks": torch.zeros(2)}}
    checkpoint.save(tmp_path / "p.json.run", 3, tensors, {"step": 3, "subject": {}})
    with pytest.raises(UserError, match=r"older hasten.*delete .*p\.json\.run"):
        learn_program(tiny_model(), 2, tmp_path / "p.json", references=FEW, options=SHORT)


@pytest.mark.slow
def test_recomputing_activations_changes_nothing(tiny_model, tmp_path):
    found = [
        learn_program(
            tiny_model(), 2, tmp_path / f"{frugal}.json", references=FEW,
            options=dataclasses.replace(SHORT, frugal=frugal, steps=4),
        )
        for frugal in (False, True)
    ]  # fmt: skip
    assert found[0].program == found[1].program


@pytest.fixture
def written(tiny_model, tmp_path):
    model = tiny_model()
    program = Plan(solver="ddim", grid="log-snr", steps=2).trace(model.schedule)
    file = tmp_path / "program.json"
    LearnedProgram(program=program, weights="0" * 64, model="another").write(file)
    return model, file


def test_other_weights_are_refused_unless_told(written):
    model, file = written
    with pytest.raises(UserError, match="was learned for other weights"):
        build(model, Plan(program=str(file)))
    build(model, Plan(program=str(file), other_weights=True)).sample(1)


def test_another_path_is_refused(written, tiny_model):
    _, file = written
    with pytest.raises(UserError, match="begins at"):
        build(tiny_model("edm", "edm"), Plan(program=str(file), other_weights=True))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"solver": "ddim"}, "decides solver; drop solver"),
        ({"grid": "uniform"}, "decides grid"),
        ({"steps": 4}, "decides steps"),
        ({"clip": 1.0}, "decides clip"),
    ],
)
def test_what_a_program_rules_cannot_be_given_beside_it(written, fields, words):
    with pytest.raises(UserError, match=words):
        Plan(program=str(written[1]), **fields)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "JSON"),
        ("{}", "no learned program"),
        ('{"format": "hasten-learned-program-1"}', "damaged"),
        ('{"format": "hasten-learned-program-1", "program": {}}', "has no format"),
    ],
)
def test_a_damaged_file_is_refused_in_one_line(tmp_path, text, words):
    file = tmp_path / "bad.json"
    file.write_text(text)
    with pytest.raises(UserError, match=words) as caught:
        Plan(program=str(file)).trace(PATH)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["nothing.json", "builtin:../plan.py", "builtin:mnist/none.json"])
def test_a_file_that_is_not_there_is_refused(name):
    with pytest.raises(UserError, match="no file"):
        Plan(program=name).trace(PATH)


def test_a_plan_with_a_program_is_the_same_in_text_and_json(written, tmp_path):
    plan = Plan(program=str(written[1]), other_weights=True)
    assert Plan.read(str(plan)) == plan
    plan.write(tmp_path / "plan.json")
    assert Plan.read(tmp_path / "plan.json") == plan


def test_gits_takes_the_levels_that_cost_least(tiny_model):
    from hasten.learning.schedules.gits import _cheapest

    misses = np.full((4, 5), np.inf)
    misses[0, 1:] = [1, 5, 9, 20]
    misses[1, 2:] = [1, 2, 9]
    misses[2, 3:] = [1, 4]
    misses[3, 4:] = [1]
    # All paths of three steps: 0-1-2-e 1+1+4, 0-1-3-e 1+2+1, 0-2-3-e 5+1+1.
    assert _cheapest(misses, 3, 1.0) == [0, 1, 3]
    plan = gits(tiny_model(), Plan(solver="ddim", grid="uniform", steps=3), n=4, fine=10)
    assert len(plan.levels(PATH)) == 4
    with pytest.raises(UserError, match="fine"):
        gits(tiny_model(), Plan(steps=20), n=4, fine=10)


@pytest.mark.slow
def test_dmn_of_a_first_order_solver_is_even_in_log_snr():
    # DDIM weighs answer i by sigma_N (1 / r_(i+1) - 1 / r_i); times r_i the sum of ratios of
    # neighbours is least where they are all the same.
    schedule = hasten.schedule("edm")
    found = dmn(schedule, Plan(solver="ddim", grid="log-snr", steps=4))
    got = [level.half_log_snr for level in found.levels(schedule)[:-1]] + [
        schedule.at(schedule.low).half_log_snr
    ]
    gaps = np.diff(got)
    assert np.allclose(gaps, gaps.mean(), rtol=0.03)


@pytest.mark.slow
def test_one_curve_serves_every_number_of_steps(tiny_model, tmp_path):
    model = tiny_model()
    plan = learn_bezier(model, (2, 4), tmp_path, solver="ddim", references=FEW, options=SHORT)
    assert plan.grid.startswith("bezier(")
    clipped = learn_bezier(
        model, (2,), tmp_path / "c", solver="ddim", clip=0.7, references=FEW, options=SHORT
    )
    assert clipped.clip == 0.7
    for steps in (2, 3, 7):
        assert len(plan.model_copy(update={"steps": steps}).levels(model.schedule)) == steps + 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rounds": 0}, "evaluations is 0"),
        ({"rounds": 21}, "evaluations is 21"),
        ({"rounds": 2, "width": 0}, "width is 0"),
        ({"rounds": 2, "minutes": 0.0}, "minutes is 0"),
        (
            {"rounds": 2, "base": Plan(solver="heun", grid="log-snr", steps=2)},
            "one evaluation a step",
        ),
        ({"rounds": 2, "base": Plan(solver="ddpm", grid="log-snr", steps=2)}, "noise"),
        ({"rounds": 2, "base": Plan(dtype="bfloat16")}, "plan sets dtype"),
        ({"rounds": 2, "base": Plan(guidance=3.0)}, "set --guidance"),
    ],
)
def test_settings_out_of_range_are_refused(tiny_model, tmp_path, options, words):
    with pytest.raises(UserError, match=words):
        learn_program(
            tiny_model(), out=tmp_path / "p.json", references=FEW, options=SHORT, **options
        )


@pytest.mark.parametrize(
    ("kind", "options", "words"),
    [
        (ReferenceOptions, {"pairs": 1}, "pairs is 1"),
        (ReferenceOptions, {"guidance": float("nan")}, "guidance is nan"),
        (FitOptions, {"rate": 0.0}, "rate is 0"),
        (FitOptions, {"batch": 0}, "batch is 0"),
    ],
)
def test_teaching_and_pace_are_checked(kind, options, words):
    with pytest.raises(UserError, match=words):
        kind(**options)


def test_the_command_line_learns_a_program_and_a_grid(tiny_model, tmp_path, capsys):
    from hasten.adapters.folder import save_folder
    from hasten.cli import _status

    save_folder(tiny_model(), tmp_path / "model")
    model, out = str(tmp_path / "model"), str(tmp_path / "p.json")
    few = ["--pairs", "16", "--steps", "3", "--batch", "8", "--quiet"]
    assert _status(["learn", "program", model, "--evaluations", "2", "--out", out, *few]) == 0
    assert "ODE error" in capsys.readouterr().out
    assert _status(["sample", model, "--plan", f"program={out}", "--out", str(tmp_path / "s")]) == 0
    plan = str(tmp_path / "plan.json")
    args = ["learn", "grid", model, "--method", "gits", "--steps", "3", "--out", plan]
    assert _status(args) == 0
    assert Plan.read(plan).grid.startswith("given(")
    assert _status(["learn", "grid", model, "--method", "magic"]) == 2
    assert "gits" in capsys.readouterr().err
    assert _status(["learn", "grid", model, "--minutes", "1"]) == 2
    assert "no training" in capsys.readouterr().err
    assert json.loads((tmp_path / "p.json").read_text())["weights"]
    assert Program.from_json(json.dumps(json.loads((tmp_path / "p.json").read_text())["program"]))


@pytest.mark.slow
def test_the_tuner_tries_the_programs_beside_a_model(tiny_model, tmp_path):
    from hasten.adapters.folder import save_folder
    from hasten.tuning.records import Trial
    from hasten.tuning.search import ProgramSearch
    from hasten.tuning.space import Space, learned_programs

    folder = tmp_path / "model"
    save_folder(tiny_model(), folder)
    model = hasten.load(folder)
    learn_program(model, 3, folder / "programs" / "3.json", references=FEW, options=SHORT)
    other = LearnedProgram.read(str(folder / "programs" / "3.json"))
    dataclasses.replace(other, weights="0" * 64).write(folder / "programs" / "other.json")
    plans = learned_programs(model, 1.0)
    assert [plan.program for plan in plans] == [str(folder / "programs" / "3.json")]
    assert learned_programs(model, 2.0) == []  # it was learned without guidance
    search = ProgramSearch(
        model=model,
        space=Space(),
        guidance=1.0,
        max_loss=0.05,
        seed=0,
        pictures=(8,),
        screen=lambda plan, by, pictures: Trial(
            plan=plan, evaluations=3, ode_error=None, by=by, seconds=0
        ),
        clock=lambda: 0.0,
    )
    search.try_programs(plans, 1e9)
    assert [(trial.by, trial.plan.program) for trial in search.trials] == [
        ("program", plans[0].program)
    ]


@pytest.mark.slow
def test_a_program_can_be_learned_for_a_start_below_the_top(tiny_model, tmp_path):
    from hasten.learning.starts.starts import learn_start

    model, file = tiny_model(), tmp_path / "two.json"
    learn_start(model, "gaussian", tmp_path / "g.safetensors", n=60)
    start = f"gaussian(ratio=5.0, file={str(tmp_path / 'g.safetensors')!r})"
    found = learn_program(model, 2, file, start=start, references=FEW, options=SHORT)
    assert abs(found.program.start.ratio - 5.0) < 1e-6
    plan = Plan(program=str(file), start=start)
    assert Plan.read(str(plan)) == plan
    build(model, plan).sample(2)
    with pytest.raises(UserError, match="was learned for start"):
        build(model, Plan(program=str(file)))


def test_a_walk_from_noise_may_learn_to_begin_below_the_top(tiny_model, tmp_path):
    model, file = tiny_model("edm", "edm"), tmp_path / "two.json"
    base = Plan(solver="ddim", grid="karras(high=20.0)", steps=2)
    learned = learn_program(model, 2, file, base=base, references=FEW, options=SHORT)
    assert learned.program.start.ratio < 40
    noise = torch.randn(2, *model.shape)
    sampler = build(model, Plan(program=str(file)))
    denoise = sampler.session(Condition.none(len(noise)), no_noise).denoise
    want = hasten.run(learned.program, denoise, noise)
    got = sampler.sample(noise=noise, raw=True)
    assert (got - want).abs().max() < 1e-4 * max(1.0, float(want.abs().max()))
    ode_error = learned.facts["ode_error"]
    assert ode_error["after"] < ode_error["before"]
