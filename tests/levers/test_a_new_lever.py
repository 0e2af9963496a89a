"""A lever that hasten has never seen, in a file of its own: registering it is all that it takes to
use it in plans, samplers, the tuner and the command line."""

from __future__ import annotations

import dataclasses
import importlib
import itertools
import sys
from types import SimpleNamespace

import pytest
import torch

import hasten
from hasten.adapters.folder import save_folder
from hasten.cli import main
from hasten.core.errors import UserError
from hasten.core.lever import levers
from hasten.core.plan import Plan
from hasten.measuring.macs import macs
from hasten.sampling import network_key, prepare, resolve
from hasten.tuning.network_levers import lever_candidates
from hasten.tuning.settings import TunerSettings
from hasten.tuning.space import Space

FILE = '''
"""Two levers: one scales what a network answers, the other gives every second answer again."""

import dataclasses

import torch

from hasten.core.engine import Prepared
from hasten.core.errors import require_number
from hasten.core.lever import Lever, Stage, Trait, levers


class Times(torch.nn.Module):
    def __init__(self, net, by):
        super().__init__()
        self.net, self.by = net, by

    def forward(self, x, t, condition=None):
        return self.by * self.net(x, t, condition)


@levers.add("scaled")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Scaled(Lever):
    """What the network answers, times ``by``."""

    by: float = 0.5
    traits = frozenset({Trait.BITS})

    def __post_init__(self):
        require_number("lever option by", self.by, 0.0, 10.0)

    def transform(self, model, resolved):
        return dataclasses.replace(model, net=Times(model.net, self.by))

    @classmethod
    def candidates(cls, model):
        return [cls(by=0.9)]


@dataclasses.dataclass(frozen=True, eq=False)
class Last:
    """The last answer of a run."""

    answer: torch.Tensor | None = None
    signature = ("last",)

    def rows(self, index):
        return Last(self.answer if self.answer is None else self.answer[index])

    def cat(self, others):
        return Last(torch.cat([self.answer, *(other.answer for other in others)]))


class Skipping(Prepared):
    def __init__(self, net):
        self.net, self.precision, self.weights_mb = net, net.precision, net.weights_mb
        self.versions, self.calls = net.versions, 0

    def __call__(self, x, t, condition=None, *kept):
        self.calls += 1
        return self.net(x, t, condition, *kept)

    def run(self, call, x, t):
        if call.variant == "again":
            return call.state.answer, call.state
        answer = self(x, t, call.condition)
        return answer, Last(answer)


@levers.add("again")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Again(Lever):
    """Every second evaluation is answered as the one before it."""

    stage = Stage.VARIANTS
    traits = frozenset({Trait.MARKS, Trait.ORDER, Trait.PROGRAM, Trait.BITS})
    exports = False

    def mark(self, program):
        numbers = range(program.evaluations)
        return program.with_variants(["again" if number % 2 else "full" for number in numbers])

    def open(self, resolved):
        return Last()

    def wrap(self, net, model, resolved):
        return Skipping(net)

    def variant_macs(self, resolved, network_macs):
        return {"again": 0}
'''
BASE = Plan(solver="ddim", grid="uniform", steps=4)


@pytest.fixture
def theirs(tmp_path, monkeypatch):
    """The module that registers both, imported; afterwards they are unknown again."""
    (tmp_path / "their_levers.py").write_text(FILE)
    monkeypatch.syspath_prepend(str(tmp_path))
    list(levers)  # hasten's own come first
    try:
        yield importlib.import_module("their_levers")
    finally:
        for name in ("scaled", "again"):
            levers._known.pop(name, None)
        sys.modules.pop("their_levers", None)


@pytest.fixture
def model(tiny_model):
    return tiny_model(prediction="x0", labels=2)


def sampled(model, plan, **options) -> torch.Tensor:
    noise = torch.randn(3, *model.shape, generator=torch.Generator().manual_seed(0))
    given = {"noise": noise, "condition": [0, 1, 0], "raw": True, **options}
    return hasten.build(model, plan).sample(**given)


def test_before_it_is_registered_it_is_unknown():
    with pytest.raises(UserError, match="lever 'scaled' is unknown"):
        Plan(levers=["scaled"])


def test_a_plan_names_it_in_every_form(theirs, tmp_path):
    plan = Plan.read("solver=ddim,grid=uniform,steps=4,levers=[scaled(by=0.25), again]")
    assert plan.levers == ("scaled(by=0.25)", "again")
    assert plan == BASE.with_lever(theirs.Again()).with_lever(theirs.Scaled(by=0.25))
    assert Plan.read(str(plan)) == plan
    plan.write(tmp_path / "plan.json")
    assert Plan.read(tmp_path / "plan.json") == plan
    assert plan.lever("scaled") == theirs.Scaled(by=0.25)
    with pytest.raises(UserError, match="by is 11; it takes a number from 0 to 10"):
        Plan(levers="scaled(by=11)")


def test_it_changes_the_network_that_runs(theirs, model):
    other = dataclasses.replace(model, net=theirs.Times(model.net, 0.5))
    wanted = sampled(other, BASE)
    assert torch.equal(sampled(model, BASE.with_lever("scaled")), wanted)
    assert not torch.equal(sampled(model, BASE), wanted)
    guided = BASE.model_copy(update={"guidance": 2.0})
    assert torch.equal(sampled(model, guided.with_lever("scaled")), sampled(other, guided))


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_it_marks_evaluations_and_keeps_a_state_of_its_own(theirs, model, guidance):
    plan = BASE.with_lever("again").model_copy(update={"guidance": guidance})
    program = resolve(plan, model).program
    assert program.variants == ("full", "again", "full", "again")
    net = prepare(model, plan)
    noise = torch.randn(3, *model.shape, generator=torch.Generator().manual_seed(0))
    sampler = hasten.build(model, plan, net=net)
    got = sampler.sample(noise=noise, condition=[0, 1, 0], raw=True)
    assert net.calls == 2  # both branches share a call
    levels, labels = sampler.levels, torch.tensor([0, 1, 0])
    x = noise * levels[0].spread
    with torch.inference_mode():
        for number, (here, there) in enumerate(itertools.pairwise(levels)):
            if number % 2 == 0:
                t = torch.full((3,), here.t)
                x0 = model.net(x, t, labels)
                null = model.net(x, t, torch.full_like(labels, 2))
                x0 = null + guidance * (x0 - null)
            x = there.alpha * x0 + there.sigma / here.sigma * (x - here.alpha * x0)
    assert (got - x).abs().max() < 1e-5


def test_levers_that_mark_exclude_each_other_by_their_traits(theirs, model):
    with pytest.raises(UserError, match=r"'again' says which variant .*'deep' .*drop one"):
        BASE.with_lever("again").with_lever("deep")
    assert BASE.with_lever("scaled").with_lever("again").levers == ("scaled", "again")
    with pytest.raises(UserError, match=r"lever 'again' keeps something .* executor 'picard'"):
        BASE.with_lever("again").model_copy(update={"executor": "picard"})
    walk = BASE.with_lever("again").model_copy(update={"solver": "adaptive-ode"})
    with pytest.raises(UserError, match="'again' is a column of a program, but solver"):
        hasten.build(model, walk)
    assert sampled(model, BASE.with_lever("scaled").model_copy(update={"executor": "picard"})).any()


def test_plans_share_a_prepared_network_where_its_key_is_the_same(theirs, model):
    one, same = BASE.with_lever("scaled"), BASE.with_lever("scaled(by=0.5)")
    other = BASE.with_lever("scaled(by=0.6)")
    keys = [network_key(model, plan) for plan in (BASE, one, same, other)]
    assert keys[1] == keys[2]
    assert len(set(keys)) == 3
    assert sampled(model, one).equal(sampled(model, same.model_copy(update={"steps": 4})))


def test_what_it_costs_is_counted(theirs, model):
    whole = macs(hasten.build(model, BASE))
    assert macs(hasten.build(model, BASE.with_lever("scaled"))) == whole
    assert macs(hasten.build(model, BASE.with_lever("again"))) == whole / 2


@pytest.mark.slow
def test_an_engine_compiles_what_it_made(theirs, model):
    pytest.importorskip("onnxruntime")
    plan = BASE.with_lever("scaled")
    apart = sampled(model, plan.model_copy(update={"engine": "onnxruntime"})) - sampled(model, plan)
    assert apart.abs().max() < 1e-4


def test_an_export_says_which_lever_keeps_it(theirs, model, tmp_path):
    from hasten.exporting.export import export

    with pytest.raises(UserError, match="drop again"):
        export(model, BASE.with_lever("again"), "folder", tmp_path / "out")


def test_the_command_line_takes_it_in_a_plan(theirs, tiny_model, tmp_path, capsys):
    save_folder(tiny_model(labels=2), tmp_path / "model")
    plan = "solver=ddim,steps=2,levers=[scaled(by=0.5), again]"
    out = tmp_path / "out"
    words = ["sample", str(tmp_path / "model"), "--plan", plan, "--n", "1", "--out", str(out)]
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert not stop.value.code, capsys.readouterr().err
    assert (out / "00000.png").is_file()


def test_a_tuning_run_tries_it_and_says_what_came_of_it(theirs, tiny_model):
    settings = TunerSettings(
        reference_sizes=((4, 20),),
        baseline_steps=1,
        report_s=0.0,
        race_s=0.0,
        race_rounds=2,
        random_draws=2,
        level_trials=2,
        level_random_trials=1,
        fresh_processes=0,
        parallel_share=0.0,
    )
    space = Space(
        solvers=("ddim",), grids=("uniform",), steps=(2, 4), engines=(("eager", "float32"),)
    )
    model = tiny_model(prediction="x0", labels=2)
    tuned = hasten.tune(model, minutes=10, max_loss=5.0, space=space, settings=settings)
    assert any(note.startswith("lever scaled(by=0.9): ") for note in tuned.notes), tuned.notes


def test_the_tuner_tries_what_it_offers(theirs, model):
    """See tests/tuning/test_network_levers.py for what becomes of candidates."""
    runner = SimpleNamespace(model=model)
    selection = SimpleNamespace(runner=runner, engines=[], settings=TunerSettings())
    offered = {made.name: made.plan for made in lever_candidates(selection, BASE, ())}
    assert offered["lever scaled(by=0.9)"] == BASE.with_lever(theirs.Scaled(by=0.9))
    assert not any(name.startswith("lever again") for name in offered)  # it offers nothing
