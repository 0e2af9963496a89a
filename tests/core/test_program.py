"""Programs: traced from walks, run as walks are, written and read again."""

from __future__ import annotations

import dataclasses
import itertools
import json
import weakref

import pytest
import torch

import hasten
from conftest import ByFunction, GaussianDenoiser, session_of
from hasten.core.ask import Blend, Combine, Denoise, Noise
from hasten.core.call import Answer
from hasten.core.condition import Condition
from hasten.core.errors import TracingError, UserError
from hasten.core.lower import lower
from hasten.core.program import Program, symbol, trace_walk
from hasten.core.session import Session, drive
from hasten.core.solver import Solver, trace
from hasten.executors.sequential import Sequential

PATH = hasten.schedule("ddpm")
EXAMPLE = hasten.Plan(solver="ddim(eta=0.5)", grid="uniform", steps=6)


def start(n=3):
    return torch.randn(n, 1, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def normal(seed=2):
    one = torch.Generator().manual_seed(seed)
    return lambda: torch.randn(3, 1, 4, 4, dtype=torch.float64, generator=one)


def test_a_program_gives_what_its_walk_gives(gaussian):
    program = EXAMPLE.trace(PATH)
    traced = Sequential().run(program, {"x": start()}, session_of(gaussian, normal()))
    walk = EXAMPLE.parts.solver.walk(start(), EXAMPLE.levels(PATH))
    walked = drive(walk, session_of(gaussian, normal()))
    assert (traced - walked).abs().max() < 1e-14


def test_json_gives_the_same_program_to_the_last_bit():
    program = EXAMPLE.trace(PATH)
    assert Program.from_json(program.to_json()) == program


def test_a_thousand_ancestral_steps_live_in_four_latents():
    plan = hasten.Plan(solver="ddpm", grid="uniform", steps=1000)
    program = plan.trace(PATH)
    assert program.evaluations == 1000
    assert program.peak <= 4


def test_the_executor_holds_no_more_latents_than_the_program_says():
    program = hasten.Plan(solver="ddpm", grid="uniform", steps=50).trace(PATH)
    most, alive = 0, set()

    def seen(value):
        nonlocal most
        copy = value.clone()
        alive.add(id(copy))
        weakref.finalize(copy, alive.discard, id(copy))
        most = max(most, len(alive))
        return copy

    session = session_of(lambda x, level: seen(x * 0.5), lambda: seen(torch.zeros(3, 1, 4, 4)))
    Sequential().run(program, {"x": start().float()}, session)
    assert most <= 2  # of the four, x and the sum being made are not counted here


def test_clipping_is_a_row_of_its_own(gaussian):
    plan = hasten.Plan(solver="ddim", grid="uniform", steps=4, clip=0.2)
    program = plan.trace(PATH)
    assert [row.ask.op for row in program.rows].count("clip") == 4
    out = hasten.run(program, gaussian, start())
    assert out.abs().max() <= 0.2 + 1e-12


class OfNetwork:
    """A denoiser of raw network outputs, as an exported runtime has it."""

    def __init__(self, prediction, denoiser, schedule):
        self.prediction, self.denoiser, self.schedule = prediction, denoiser, schedule

    def __call__(self, calls):
        assert all(call.raw for call in calls)
        return [Answer(x0=self.output(call)) for call in calls]

    def output(self, call):
        level = self.schedule.at(call.level.t)
        here = self.prediction.at(level)
        x = call.x / here.scale
        x0 = self.denoiser(x, level) if call.branch == "cond" else 0.5 * self.denoiser(x, level)
        return (x0 - here.skip * x) / here.out


@pytest.mark.parametrize("prediction", ["epsilon", "v", "edm"])
@pytest.mark.parametrize("guidance", [1.0, 2.5])
@pytest.mark.parametrize("solver", ["ddim", "ddim(eta=0.5)", "dpmpp(order=3)", "heun"])
def test_lowering_gives_the_same_pictures(prediction, guidance, solver, gaussian):
    program = hasten.Plan(solver=solver, grid="uniform", steps=5, clip=None).trace(PATH)

    def guided(x, level):
        wanted, null = gaussian(x, level), 0.5 * gaussian(x, level)
        return null + guidance * (wanted - null)

    want = Sequential().run(program, {"x": start()}, session_of(guided, normal()))
    low = lower(program, hasten.prediction(prediction), guidance)
    assert {row.ask.op for row in low.rows} <= {"network", "combine", "noise"}
    session = Session(OfNetwork(hasten.prediction(prediction), gaussian, PATH), normal())
    got = Sequential().run(Program.from_json(low.to_json()), {"x": start()}, session)
    # epsilon at t = 999 divides by alpha = 0.0064, and again by the guidance's differences.
    assert (got - want).abs().max() < 1e-9


@dataclasses.dataclass(frozen=True, kw_only=True)
class Crooked(Solver):
    how: str

    def walk(self, x, levels):
        x0 = yield Denoise(x, levels[0])
        if self.how == "product":
            return x * x0
        if self.how == "method":
            return x0.clamp(-1, 1)
        if self.how == "branch":
            return x if x0 else x0
        if self.how == "constant":
            return x + 1.0
        return x * float("nan")


@pytest.mark.parametrize("how", ["product", "method", "branch", "constant", "nan"])
def test_what_is_not_linear_says_so(how):
    with pytest.raises(TracingError):
        trace(Crooked(how=how), (PATH.at(999), PATH.at(0)))


def combination(body):
    return next(row for row in body["rows"] if row["op"] == "combine")


def broken(change):
    body = json.loads(EXAMPLE.trace(PATH).to_json())
    change(body)
    return json.dumps(body)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda body: body.update(format="other"), "format"),
        (lambda body: body.pop("output"), "missing"),
        (lambda body: body.update(output="q9"), "q9"),
        (lambda body: body.update(rows=[]), "no rows"),
        (lambda body: body["rows"][0].update(op="explode"), "explode"),
        (lambda body: body["rows"][0].update(x="x7"), "x7"),
        (lambda body: body["rows"][1].update(out=["d0"]), "second time"),
        (lambda body: body["rows"][0]["level"].update(t=float("inf")), "inf"),
        (lambda body: body["rows"][0].pop("level"), "missing"),
        (lambda body: body["rows"][0].update(out=[]), "answers"),
        (lambda body: body.update(rows="x"), "wrong kind"),
        (lambda body: body["rows"][0]["level"].update(t="x"), "wrong kind"),
        (lambda body: body["rows"][0]["level"].update(alpha=-1.0), "not negative"),
        (lambda body: body["start"].update(alpha="a"), "wrong kind"),
        (lambda body: body["start"].update(alpha=float("nan")), "finite"),
        (lambda body: body["start"].update(alpha=0.0, sigma=0.0), "not both 0"),
        (lambda body: combination(body).update(coefficients=[1.0]), "as many"),
        (lambda body: combination(body).update(terms=[], coefficients=[]), "as many"),
        (lambda body: combination(body).update(terms="x"), "as many"),
        (lambda body: combination(body).update(coefficients=[10**400, 1.0, 1.0]), "wrong kind"),
    ],
)
def test_a_damaged_program_is_refused_in_one_line(change, words):
    with pytest.raises(UserError, match=words) as caught:
        Program.from_json(broken(change))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["{", "[" * 100_000, None, {}])
def test_what_is_no_json_is_refused(text):
    with pytest.raises(UserError, match="no JSON"):
        Program.from_json(text)


def test_noise_depends_on_seed_and_place_alone(gaussian: GaussianDenoiser):
    program = EXAMPLE.trace(PATH)
    noise = start(5)
    together = hasten.run(program, gaussian, noise, seed=4)
    alone = hasten.run(program, gaussian, noise[:2], seed=4)
    assert torch.equal(together[:2], alone)
    other = hasten.run(program, gaussian, noise, seed=5)
    assert not torch.equal(together, other)


def test_noise_asks_are_counted():
    program = EXAMPLE.trace(PATH)
    assert program.draws == sum(isinstance(row.ask, Noise) for row in program.rows) == 5


# RePaint (2201.09865): what is known of a picture is noised to each level and put back in.


def repaint(x, source, mask, levels):
    """Ancestral steps in which the masked part alone is the network's: eq. 8a to 8c."""
    for here, there in itertools.pairwise(levels):
        x0 = yield Denoise(x, here)
        unknown = there.alpha * x0 + there.sigma / here.sigma * (x - here.alpha * x0)
        noise = yield Noise()
        known = there.alpha * source + there.sigma * noise
        x = yield Blend(unknown, known, mask)
    return x


REPAINT = ("x", "source", "mask")


def repaint_program(levels):
    symbols = [symbol(name) for name in REPAINT]
    return trace_walk(repaint(*symbols, levels), levels[0], inputs=REPAINT)


def test_a_walk_with_a_source_and_a_mask_is_the_loop_by_hand(gaussian):
    levels = EXAMPLE.levels(PATH)
    program = repaint_program(levels)
    assert program.inputs == REPAINT
    x, source = start() * levels[0].spread, start().flip(0) + 0.5
    mask = (torch.arange(16).view(4, 4) % 3 == 0).double().expand_as(x)
    inputs = {"x": x, "source": source, "mask": mask}
    got = Sequential().run(program, dict(inputs), session_of(gaussian, normal()))
    draw = normal()
    for here, there in itertools.pairwise(levels):
        x0 = gaussian(x, here)
        unknown = there.alpha * x0 + there.sigma * (x - here.alpha * x0) / here.sigma
        known = there.alpha * source + there.sigma * draw()
        x = mask * unknown + (1 - mask) * known
    assert (got - x).abs().max() < 1e-13
    last = levels[-1]
    assert (last.alpha, last.sigma) == (1.0, 0.0)
    outside = mask == 0
    assert torch.equal(got[outside], source[outside])  # the known part is the source itself


def test_inputs_and_blends_survive_json_and_old_programs_have_one_input():
    program = repaint_program(EXAMPLE.levels(PATH))
    again = Program.from_json(program.to_json())
    assert again == program
    assert [row.ask.op for row in again.rows].count("blend") == 6
    plain = EXAMPLE.trace(PATH)
    assert "inputs" not in json.loads(plain.to_json())
    assert Program.from_json(plain.to_json()).inputs == ("x",)


def test_hasten_run_takes_the_inputs_by_name_and_names_those_that_are_missing(gaussian):
    program, noise = repaint_program(EXAMPLE.levels(PATH)), start().float()
    source, mask = torch.full_like(noise, 0.25), torch.zeros_like(noise)
    kept = hasten.run(program, gaussian, noise, source=source, mask=mask)
    assert torch.equal(kept, source)  # a mask of zeros changes nothing
    with pytest.raises(UserError, match=r"\['x', 'source', 'mask'\]; give \['mask'\]"):
        hasten.run(program, gaussian, noise, source=source)


def test_inputs_live_as_long_as_they_are_read():
    program = repaint_program(EXAMPLE.levels(PATH))
    registers = {name: start() for name in REPAINT}
    held = {name: weakref.ref(value) for name, value in registers.items()}
    alive = []

    def answer(x, level):
        alive.append({name for name, value in held.items() if value() is not None})
        return 0.5 * x

    Sequential().run(program, registers, session_of(answer, normal()))
    assert alive[0] == set(REPAINT)
    assert alive[1:] == [{"source", "mask"}] * 5


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda body: body.update(inputs=["source", "x"]), "they begin with 'x'"),
        (lambda body: body.update(inputs=["x", "source", "source", "mask"]), "differ"),
        (lambda body: body.update(inputs=["x", "source"]), "reads 'mask' before"),
        (lambda body: body.pop("inputs"), "before a row has written it"),
    ],
)
def test_inputs_that_do_not_fit_the_rows_are_refused(change, words):
    body = json.loads(repaint_program(EXAMPLE.levels(PATH)).to_json())
    change(body)
    with pytest.raises(UserError, match=words):
        Program.from_json(json.dumps(body))


def flowedit(x, levels):
    """An edit without inversion (2412.08629, eq. 8): the difference of what the network believes
    under two conditions moves the source picture."""
    picture = x
    for here, there in itertools.pairwise(levels):
        noise = yield Noise()
        noisy = yield Combine((x, noise), (here.alpha, here.sigma))
        moved = yield Combine((noisy, picture, x), (1.0, here.alpha, -here.alpha))
        target = yield Denoise(moved, here)
        source = yield Denoise(noisy, here, condition="source")
        step = 1.0 if there.sigma == 0 else 1 - there.sigma / here.sigma
        picture = picture + step * ((target - source) - (picture - x))
    return picture


class OfLabels:
    """A denoiser whose x0 depends on the label of the condition that it is asked about."""

    def __init__(self):
        self.seen = []

    def __call__(self, calls):
        self.seen += [call.condition.labels.tolist() for call in calls]
        return [Answer(x0=self.x0(call.x, call.level, call.condition.labels)) for call in calls]

    @staticmethod
    def x0(x, level, labels):
        return torch.tanh(x / level.spread + labels.view(-1, 1, 1, 1))


def test_evaluations_about_two_conditions_are_answered_by_both():
    levels = EXAMPLE.levels(PATH)
    program = trace_walk(flowedit(symbol(), levels), levels[0])
    assert Program.from_json(program.to_json()) == program
    assert [row.ask.condition for row in program.rows if row.ask.calls] == ["main", "source"] * 6
    wanted, source = torch.tensor([1, 2, 0]), torch.tensor([0, 0, 1])
    conditions = {"main": Condition.labels_of(wanted), "source": Condition.labels_of(source)}
    denoiser = OfLabels()
    got = Sequential().run(program, {"x": start()}, Session(denoiser, normal(), conditions))
    assert denoiser.seen == [wanted.tolist(), source.tolist()] * 6
    x = picture = start()
    draw, x0 = normal(), OfLabels.x0
    for here, there in itertools.pairwise(levels):
        noisy = here.alpha * x + here.sigma * draw()
        moved = noisy + here.alpha * (picture - x)
        step = 1 - there.sigma / here.sigma
        apart = x0(moved, here, wanted) - x0(noisy, here, source)
        picture = picture + step * (apart - (picture - x))
    assert (got - picture).abs().max() < 1e-13


def test_the_two_evaluations_of_an_edit_are_one_round():
    levels = EXAMPLE.levels(PATH)
    program = trace_walk(flowedit(symbol(), levels), levels[0])
    denoiser = ByFunction(lambda x, level: torch.tanh(x))
    labels = Condition.labels_of(torch.zeros(3, dtype=torch.long))
    session = Session(denoiser, normal(), {"main": labels, "source": labels})
    Sequential().run(program, {"x": start()}, session)
    assert (program.evaluations, program.rounds) == (12, 6)
    assert denoiser.rounds == [2] * 6


def test_a_condition_that_a_run_was_not_given_is_named():
    levels = EXAMPLE.levels(PATH)
    program = trace_walk(flowedit(symbol(), levels), levels[0])
    session = Session(OfLabels(), normal(), Condition.labels_of(torch.zeros(3, dtype=torch.long)))
    with pytest.raises(UserError, match="condition 'source', and the run was given main"):
        Sequential().run(program, {"x": start()}, session)


def test_programs_that_were_written_with_reuse_load_as_cached():
    body = json.loads(EXAMPLE.trace(PATH).to_json())
    calls = [row for row in body["rows"] if row["op"] == "denoise"]
    for number, row in enumerate(calls):
        row["reuse"] = number % 2 == 1
    program = Program.from_json(json.dumps(body))
    assert program.variants == ("full", "cached") * 3
    assert program.with_variants(["full"] * 6) == EXAMPLE.trace(PATH)
    assert '"reuse"' not in program.to_json()
    calls[0]["reuse"] = True
    with pytest.raises(UserError, match="cached features in its first evaluation"):
        Program.from_json(json.dumps(body))


def test_a_column_of_variants_has_an_entry_for_each_evaluation():
    program = EXAMPLE.trace(PATH)
    small = program.with_variants(["full", "small", "small", "full", "small", "full"])
    assert small.variants == ("full", "small", "small", "full", "small", "full")
    assert (program.plain, small.plain) == (True, False)
    assert Program.from_json(small.to_json()) == small
    with pytest.raises(UserError, match="2 entries, but the program makes 6 evaluations"):
        program.with_variants(["full", "small"])
