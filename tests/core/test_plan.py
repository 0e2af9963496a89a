"""Plans: texts, files of every version, and validation that reads no file."""

from __future__ import annotations

import json

import pytest

from hasten.core.errors import UserError
from hasten.core.plan import Plan, as_plan
from hasten.core.plan_upgrade import VERSION

FIELDS = [
    ({"solver": "dimm"}, "ddim"),
    ({"solver": "ddim(eta=2)"}, "eta is 2"),
    ({"solver": "ddim(eta=)"}, "cannot be read"),
    ({"solver": "ddim(0.5)"}, "cannot be read"),
    ({"solver": "dpmpp(order=9)"}, "order is 9"),
    ({"grid": "karas"}, "karras"),
    ({"steps": 0}, "steps"),
    ({"steps": -1}, "steps"),
    ({"steps": 10**9}, "steps"),
    ({"steps": "ten"}, "steps"),
    ({"steps": 2.5}, "steps"),
    ({"guidance": float("nan")}, "guidance"),
    ({"guidance": -1}, "guidance"),
    ({"clip": 0}, "clip"),
    ({"dtype": "float8"}, "dtype"),
    ({"executor": "magic"}, "executor"),
    ({"start": "nois"}, "noise"),
    ({"levers": "dep"}, "lever 'dep' is unknown.*Did you mean 'deep'"),
    ({"levers": ["deep", "encoder"]}, "'deep' says which variant .* 'encoder' .* drop one"),
    ({"levers": ["student(folder='a')", "student(folder='b')"]}, "drop one"),
    ({"levers": "student"}, "lacks option 'folder'; write it as student"),
    ({"stps": 3}, "steps"),
    ({"reuse": "deep"}, "reuse"),
]


@pytest.mark.parametrize(("fields", "words"), FIELDS)
def test_a_wrong_plan_is_refused_in_one_line(fields, words):
    with pytest.raises(UserError, match=words) as caught:
        Plan(**fields)
    assert "\n" not in str(caught.value)


PLANS = [
    Plan(),
    Plan(solver="ddim(eta=0.5)", grid="given(at=(900, 5.5))", steps=2, guidance=1.5, clip=1),
    Plan(start="noise", executor="picard(window=7)", dtype="bfloat16", engine="compile"),
    Plan(guidance=2.0, guidance_interval=(0.1, float("inf"))),
    Plan(levers=["deep(branch=0, mask=(1, 0, 1))"], steps=3),
    Plan(levers=["deep(every=3)", "merge(share=0.25)"]),
    Plan(levers=["merge(share=0.25)", "blocks(first=0, last=-1, forecast=1)"], device="cuda"),
    Plan(levers=["quantize(file='a, b) [c.safetensors')"], other_weights=True),
    Plan(levers=["torchao(kind='int8-weights')", "merge(share=0.5)"]),
    Plan(levers=["student(folder='runs/one')"]),
    Plan(levers=["student(folder='runs/one')", "quantize(file='it\\'s')"]),
    Plan(levers=["small(folder='runs/one', at=(0, 1, 1))"], steps=3, solver="ddim"),
    Plan(levers=["first-block(threshold=0.3)"]),
    Plan(program="program.json", levers=["encoder(batched=True)"], guidance=3.0),
    Plan(start="plan(plan='steps=3,solver=unipc(order=3)', ratio=2.0)", steps=4),
    Plan(start="generator(source='a, b) (c', ratio=2.0)"),
]


@pytest.mark.parametrize("plan", PLANS, ids=str)
def test_a_plan_survives_text_json_and_yaml(plan, tmp_path):
    assert as_plan(str(plan)) == plan
    if str(plan):
        assert Plan.read(str(plan)) == plan
    plan.write(tmp_path / "plan.json")
    assert json.loads((tmp_path / "plan.json").read_text())["version"] == VERSION
    again = Plan.read(tmp_path / "plan.json")
    assert (again, again.key) == (plan, plan.key)
    assert Plan.of(plan.model_dump() | {"version": VERSION}) == plan
    assert plan.model_copy() == plan
    assert len({each.key for each in PLANS}) == len(PLANS)


def test_options_are_canonical_and_levers_are_in_the_order_in_which_they_are_applied():
    assert Plan.read("solver=ddim( eta = 0.5 )").solver == "ddim(eta=0.5)"
    assert Plan(solver="dpmpp()").key == Plan().key
    one = Plan(levers=["student(folder='s')", "deep(every=2)", "merge(share=0.25)"])
    other = Plan(levers="[merge(share=0.25),deep,student(folder='s')]")
    assert one == other
    assert one.levers == ("student(folder='s')", "merge(share=0.25)", "deep")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("steps=3,steps=4", "gives 'steps' twice"),
        ("steps", "no file that can be read"),
        ("a=1", "'a'"),
        ("=3", "no file that can be read"),
        ("nowhere.json", "no file that can be read"),
        ("", "no file that can be read"),
    ],
)
def test_text_that_is_no_plan_is_refused(text, words):
    with pytest.raises(UserError, match=words):
        Plan.read(text)


def test_a_copy_of_a_plan_forgets_what_the_old_fields_meant():
    plan = Plan(solver="ddim", steps=4)
    assert plan.parts.levers == ()
    other = plan.model_copy(update={"clip": 0.5, "levers": ("deep",)})
    assert [lever.part_name for lever in other.parts.levers] == ["deep"]
    assert other.parts.solver == Plan(solver="ddim", clip=0.5).parts.solver
    assert other.parts.solver != plan.parts.solver
    with pytest.raises(UserError, match="steps"):
        plan.model_copy(update={"steps": 0})


def test_levers_are_added_looked_up_and_dropped_by_name():
    plan = Plan(steps=4).with_lever("deep(every=4)").with_lever("merge")
    assert plan.lever("deep").every == 4
    assert plan.lever("quantize") is None


# Files that name nothing that exists: validating a plan opens none of them.

ABSENT = [
    ({"program": "no/program.json"}, "no/program.json"),
    ({"levers": ["student(folder='no/student')"]}, "no/student"),
]
LEARNED_LATER = [
    {"levers": ["quantize(file='no/quantization')"]},
    {"levers": ["small(folder='no/small', at=(0, 1))"], "steps": 2},
    {"start": "gaussian(file='no/start', ratio=1.0)"},
]


@pytest.mark.parametrize(("fields", "name"), ABSENT)
def test_what_a_file_decides_is_unknown_until_parts_are_asked_for(fields, name):
    plan = Plan(**fields)
    assert (plan.solver, plan.grid, plan.steps, plan.clip) == (None, None, None, None)
    assert as_plan(str(plan)) == plan
    assert len(plan.key) == 12
    with pytest.raises(UserError, match=name) as caught:
        plan.parts  # noqa: B018
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("fields", LEARNED_LATER)
def test_files_that_decide_nothing_are_read_by_no_plan(fields):
    plan = Plan(**fields)
    assert as_plan(str(plan)) == plan
    assert plan.parts.steps == plan.steps


@pytest.mark.parametrize("name", ["solver", "grid", "steps", "clip"])
def test_what_a_program_decides_is_not_given_beside_it(name):
    value = {"solver": "ddim", "grid": "uniform", "steps": 3, "clip": 1.0}[name]
    with pytest.raises(UserError, match=f"program 'p' decides {name}; drop {name}"):
        Plan(program="p", **{name: value})


def test_a_student_decides_nothing_where_a_plan_gives_it():
    plan = Plan(levers=["student(folder='no/student')"], solver="ddim", steps=3)
    assert (plan.solver, plan.grid, plan.steps) == ("ddim", "log-snr", 3)
    assert plan.parts.steps == 3


# Files that users have: everything that any version wrote is read as what it means today.

FIRST = {
    "solver": "dpmpp(order=2)",
    "grid": "log-snr",
    "steps": 10,
    "program": None,
    "student": None,
    "quantize": None,
    "small": None,
    "small_at": None,
    "executor": "sequential",
    "start": "noise",
    "guidance": 1.0,
    "guidance_interval": None,
    "reuse": None,
    "merge": None,
    "clip": None,
    "dtype": "float32",
    "engine": "eager",
    "other_weights": False,
    "device": None,
}  # a plan file of the first version, every field written out

OLD = [
    ({}, Plan()),
    ({"solver": "ddim", "steps": 4, "clip": 1.0}, Plan(solver="ddim", steps=4, clip=1.0)),
    (
        {"student": "runs/s", "solver": "consistency", "grid": "uniform", "steps": 2},
        Plan(levers=["student(folder='runs/s')"], solver="consistency", grid="uniform", steps=2),
    ),
    ({"quantize": "a/b c"}, Plan(levers=["quantize(file='a/b c')"])),
    ({"quantize": "torchao:int8"}, Plan(levers=["torchao"])),
    ({"quantize": "torchao:fp8"}, Plan(levers=["torchao(kind='fp8')"])),
    ({"reuse": "deep(branch=0, every=3)"}, Plan(levers=["deep(branch=0, every=3)"])),
    ({"reuse": "first-block(threshold=0.2)"}, Plan(levers=["first-block(threshold=0.2)"])),
    ({"merge": 0.25}, Plan(levers=["merge(share=0.25)"])),
    (
        {"small": "runs/s", "small_at": [0, 1, 1], "steps": 3},
        Plan(levers=["small(folder='runs/s', at=(0, 1, 1))"], steps=3),
    ),
    (
        {"small": "runs/s", "small_at": "(0,1,1)", "steps": 3},
        Plan(levers=["small(folder='runs/s', at=(0, 1, 1))"], steps=3),
    ),
    (
        {"student": "s", "quantize": "q", "merge": 0.5},
        Plan(
            levers=["student(folder='s')", "quantize(file='q')", "merge(share=0.5)"],
            solver="dpmpp(order=2)",
        ),
    ),
    (
        {"executor": "settle(tolerance=0.1, least=3)"},
        Plan(executor="early-exit(tolerance=0.1, least=3)"),
    ),
    ({"program": "p.json"}, Plan(program="p.json")),
    (
        {"program": "p.json", "reuse": "deep(mask=(1, 0))", "guidance": 2.0},
        Plan(program="p.json", levers=["deep(mask=(1, 0))"], guidance=2.0),
    ),
]


@pytest.mark.parametrize(("changes", "wanted"), OLD, ids=str)
def test_a_file_of_the_first_version_is_the_plan_that_it_was(changes, wanted, tmp_path):
    (tmp_path / "plan.json").write_text(json.dumps(FIRST | changes))
    assert Plan.read(tmp_path / "plan.json") == wanted
    assert Plan.of(FIRST | changes) == wanted


def test_old_yaml_and_text_are_read_too(tmp_path):
    (tmp_path / "plan.yaml").write_text("solver: ddim( eta = 0.5 )\nsteps: 2\nreuse: deep\n")
    assert Plan.read(tmp_path / "plan.yaml") == Plan(
        solver="ddim(eta=0.5)", steps=2, levers=["deep"]
    )
    text = "steps=4,reuse=deep(branch=0),merge=0.25,student=runs/s"
    levers = ["student(folder='runs/s')", "merge(share=0.25)", "deep(branch=0)"]
    assert Plan.read(text) == Plan(steps=4, levers=levers)


@pytest.mark.parametrize("version", [VERSION + 1, 99])
def test_a_file_of_a_later_version_is_refused(version, tmp_path):
    (tmp_path / "plan.json").write_text(json.dumps({"version": version, "solver": "ddim"}))
    with pytest.raises(UserError, match=f"version {version!r}, and this hasten reads up to"):
        Plan.read(tmp_path / "plan.json")


@pytest.mark.parametrize("version", ["two", 0, -1, True, 1.5])
def test_a_version_that_is_none_is_refused(version, tmp_path):
    (tmp_path / "plan.json").write_text(json.dumps({"version": version, "solver": "ddim"}))
    with pytest.raises(UserError, match=r"plan version is .* a whole number from 1 to"):
        Plan.read(tmp_path / "plan.json")


def test_a_file_of_many_brackets_is_refused(tmp_path):
    (tmp_path / "plan.json").write_text("[" * 3000)
    with pytest.raises(UserError, match="is no file that can be read"):
        Plan.read(tmp_path / "plan.json")


def test_an_option_that_stands_twice_is_refused():
    with pytest.raises(UserError, match=r"'dpmpp\(order=2,order=3\)' cannot be read"):
        Plan(solver="dpmpp(order=2,order=3)")


@pytest.mark.parametrize("field", ["student", "quantize", "reuse", "merge", "small", "small_at"])
def test_fields_of_the_first_version_are_unknown_in_the_second(field, tmp_path):
    (tmp_path / "plan.json").write_text(json.dumps({"version": VERSION, field: "x"}))
    with pytest.raises(UserError, match=field):
        Plan.read(tmp_path / "plan.json")


def test_levers_in_two_ways_and_half_of_a_small_network_are_refused():
    with pytest.raises(UserError, match="names levers in two ways"):
        Plan.of({"reuse": "deep", "levers": ["merge"]})
    with pytest.raises(UserError, match=r"at is \(\); it takes ones \(small\)"):
        Plan.of({"small": "runs/s"})
    with pytest.raises(UserError, match="option folder is None; it takes a path in quotes"):
        Plan.of({"small_at": [0, 1]})


@pytest.mark.parametrize("value", ["a,b.json", "it's.json", "'quoted'.json", "12", "a (b, c).json"])
def test_a_path_of_any_letters_survives_text(value):
    plan = Plan(program=value)
    assert Plan.read(str(plan)) == plan


@pytest.mark.parametrize("given", ["program=p.json,steps=10", {"program": "p.json", "steps": 10}])
def test_steps_beside_a_program_are_refused_however_they_are_given(given):
    with pytest.raises(UserError, match="steps"):
        as_plan(given)
    assert Plan.of({"program": "p.json", "steps": 10}) == Plan(program="p.json")  # an old file
