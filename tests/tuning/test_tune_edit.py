"""tune_edit with exact denoisers and a clock that only network calls move."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tuning_fakes import FakeClock

import hasten
from hasten.adapters.families import Network
from hasten.adapters.folder import save_folder
from hasten.cli import _status
from hasten.core.codec import Identity
from hasten.core.errors import UserError
from hasten.core.model import Model
from hasten.data.shapes.drawing import drawn
from hasten.data.shapes.scenes import Scene, Thing
from hasten.editing.edit_plan import EditPlan
from hasten.tuning import edit_search, edit_space
from hasten.tuning.edit_search import doubled
from hasten.tuning.edit_space import in_engines, program, programs
from hasten.tuning.space import Space
from hasten.tuning.tune_edit import EditTuning, tune_edit
from made_clips import make_clip, moving

EAGER = Space(engines=(("eager", "float32"),))
SPREAD = 0.05
CALL_S, ROW_S = 0.01, 0.01


class Pictures(torch.nn.Module):
    """E[x0 | x] of data Normal(the picture of its label, SPREAD^2); a call takes time."""

    def __init__(self, schedule: Any, pictures: torch.Tensor, clock: FakeClock) -> None:
        super().__init__()
        self.schedule, self.clock = schedule, clock
        self.means = torch.nn.Parameter(pictures * 2 - 1, requires_grad=False)

    def forward(
        self, x: torch.Tensor, t: torch.Tensor, condition: torch.Tensor | None = None
    ) -> torch.Tensor:
        self.clock.now += CALL_S + ROW_S * len(x)
        unit = self.schedule.at(self.schedule.noisy).t / self.schedule.noisy
        levels = [self.schedule.at(float(time) / unit) for time in t]
        columns = [[level.alpha for level in levels], [level.sigma for level in levels]]
        alpha, sigma = (torch.tensor(part).view(-1, 1, 1, 1) for part in columns)
        mean = self.means[condition]
        gain = alpha * SPREAD**2 / (alpha**2 * SPREAD**2 + sigma**2)
        return mean + gain * (x - alpha * mean)


def model_of(pictures: torch.Tensor, clock: FakeClock, prompts: tuple[str, ...] = ()) -> Model:
    """A model of a picture a label, the last for "no label"."""
    schedule = hasten.schedule("vp-linear")
    return Model(
        net=Network(Pictures(schedule, pictures, clock)),
        schedule=schedule,
        prediction=hasten.prediction("x0"),
        shape=tuple(pictures.shape[1:]),
        labels=len(pictures) - 1,
        null_label=len(pictures) - 1,
        prompts=prompts,
        name="pictures",
    )


def squares() -> torch.Tensor:
    """A square that is dark, light, and in between."""
    out = torch.full((3, 1, 16, 16), 0.4)
    for label, value in enumerate((0.2, 0.8, 0.5)):
        out[label, :, 6:10, 6:10] = value
    return out


def tuned(frames: int = 12, minutes: float = 60.0, **options: Any) -> tuple[EditTuning, FakeClock]:
    clock = FakeClock()
    model = model_of(squares(), clock)
    source = squares()[:1].expand(frames, -1, -1, -1)
    options = {"source_prompt": 0, "space": EAGER, "clock": clock, **options}
    return tune_edit(model, source, 1, minutes=minutes, **options), clock


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """A short list of methods, steps and streams."""
    monkeypatch.setattr(edit_space, "METHODS", ("sdedit(strength=0.7)",))
    monkeypatch.setattr(edit_space, "STEPS", (6, 4))
    monkeypatch.setattr(edit_space, "EVERY", (4,))


def test_the_fastest_edit_that_passes_is_recommended():
    tuning, _ = tuned()
    whole = [record for record in tuning.records if record.score.frames == 12]
    passing = [record for record in whole if record.passes]
    assert tuning.passed
    assert tuning.best == tuning.records[0].settings
    assert tuning.records[0].frame_s == pytest.approx(min(each.frame_s for each in passing))
    assert tuning.records[0].score.edited == 1  # the clip stands still
    assert tuning.records[0].frame_s < 0.05 * tuning.records[-1].frame_s
    assert any(not record.passes for record in tuning.records)
    assert "loses at most 0.1 against the reference edit (flowedit, 50 steps" in tuning.why


def test_a_picture_is_tuned_as_a_clip_of_one_frame(few):
    tuning, _ = tuned(frames=1)
    assert tuning.passed
    assert (tuning.best.every, tuning.best.similar) == (1, 0.0)
    assert tuning.best.plan.steps == 4
    assert "16.5 times as many as the reference" in tuning.why  # 33 calls of both prompts, or 2


def test_doing_nothing_is_never_recommended(monkeypatch):
    def listed(model: Model, method: str, guidance: float) -> list[EditPlan]:
        nothing = program(model, "sdedit(strength=0.001)", 4, guidance)
        return [nothing, program(model, "flowedit", 10, guidance)]

    monkeypatch.setattr(edit_search, "programs", listed)
    tuning, _ = tuned()
    nothing = [each for each in tuning.records if each.settings.method.startswith("sdedit")]
    others = [each for each in tuning.records if each not in nothing]
    assert {each.score.evaluations for each in nothing} == {1}
    assert min(each.score.evaluations for each in others) == 12
    assert max(each.own.strength for each in nothing) < 0.9 * others[0].own.strength
    assert not any(each.passes for each in nothing)
    assert tuning.best.method == "flowedit"


@pytest.mark.parametrize("minutes", [0.5, 0.7, 1.0])
def test_the_budget_is_kept(minutes):
    tuning, clock = tuned(frames=40, minutes=minutes)
    assert clock.now <= 1.05 * 60 * minutes
    assert tuning.seconds == clock.now
    assert any("left out, because time ran out" in note for note in tuning.notes)
    assert tuning.passed
    assert tuning.best != tuning.reference


def test_a_clip_too_long_for_the_budget_is_measured_in_part():
    tuning, clock = tuned(frames=100, minutes=0.5)
    assert tuning.frames < 100
    assert any(f"the first {tuning.frames} of 100 frames" in note for note in tuning.notes)
    assert clock.now <= 1.05 * 30


def test_too_little_time_for_the_reference_is_said():
    with pytest.raises(UserError, match=r"the reference edit of 2 frames takes .* give --minutes"):
        tuned(minutes=0.06)


def scenes(*colours: str) -> torch.Tensor:
    things = [Thing(shape="circle", colour=c, size="large", x=32, y=32, radius=14) for c in colours]
    return drawn([Scene(things=(thing,), grey=200) for thing in things]).float() / 255


def tuned_scene(target: str, prompt: str, minutes: float = 600.0) -> EditTuning:
    """A red circle edited by a model that draws ``target`` where it is asked for ``prompt``."""
    clock, pictures = FakeClock(), scenes("red", target, "purple")
    prompts = ("a large red circle", prompt)
    model = model_of(pictures, clock, prompts)
    options = {"source_prompt": prompts[0], "space": EAGER, "clock": clock}
    return tune_edit(model, pictures[:1].expand(5, -1, -1, -1), prompt, minutes=minutes, **options)


def test_prompts_that_can_be_checked_decide(few):
    tuning = tuned_scene("blue", "a large blue circle")
    assert tuning.passed
    assert tuning.records[0].own.met == 1.0
    assert "prompt met in 100% of the frames" in tuning.why


def test_where_no_edit_passes_the_nearest_is_named_with_what_it_misses(few):
    tuning = tuned_scene("blue", "a large green circle")
    assert not tuning.passed
    assert not any(record.passes for record in tuning.records)
    assert "No edit is as good as" in tuning.why
    assert "came nearest (prompt accuracy 0, and 0.5 is asked at least)" in tuning.why


def test_an_edit_to_what_is_shown_has_no_reference():
    clock = FakeClock()
    model = dataclasses.replace(model_of(squares(), clock), plans=({"guidance": 1.5},))
    with pytest.raises(UserError, match="the reference edit changes nothing"):
        tune_edit(model, squares()[:1], 0, source_prompt=0, space=EAGER, clock=clock)


def test_a_second_run_in_a_folder_measures_nothing_again(few, tmp_path):
    first, _ = tuned(out=tmp_path)
    lines = (tmp_path / "trials.jsonl").read_text().splitlines()
    again, clock = tuned(out=tmp_path)
    assert (tmp_path / "trials.jsonl").read_text().splitlines() == lines
    assert again.best == first.best
    assert clock.now < 0.1 * first.seconds
    with pytest.raises(UserError, match="of another model, device or setting"):
        tuned(frames=11, out=tmp_path)


def test_what_was_found_is_written_and_read_again(few, tmp_path):
    tuning, _ = tuned()
    tuning.write(tmp_path)
    assert EditPlan.read(tmp_path / "plan.json") == tuning.best
    body = json.loads((tmp_path / "report.json").read_text())
    assert body["records"][0]["text"] == str(tuning.best)
    assert len(body["records"]) == len(tuning.records)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompt": None}, "prompt is missing"),
        ({"prompt": ""}, "prompt is missing"),
        ({"prompt": 7}, "condition is 7"),
        ({"source_prompt": 7}, "condition is 7"),
        ({"source": "nowhere.mp4"}, "nowhere.mp4"),
        ({"source": torch.zeros(2, 1, 9, 9)}, r"source is a tensor of the shape \(2, 1, 9, 9\)"),
        ({"source": torch.full((2, 1, 16, 16), 2.0)}, "numbers from 0 to 1"),
        ({"minutes": 0}, "minutes is 0"),
        ({"max_loss": 2}, "max_loss is 2"),
        ({"seed": -1}, "seed is -1"),
        ({"guidance": -1}, "guidance"),
        ({"method": "telepathy"}, "editing method 'telepathy' is unknown"),
        ({"method": "masked"}, "give a mask"),
    ],
)
def test_what_does_not_fit_is_named_in_one_line(changes, message):
    clock = FakeClock()
    fields = {"source": squares()[:1], "prompt": 1, "space": EAGER, "clock": clock, **changes}
    source, prompt = fields.pop("source"), fields.pop("prompt")
    with pytest.raises(UserError, match=message) as refusal:
        tune_edit(model_of(squares(), clock), source, prompt, **fields)
    assert "\n" not in str(refusal.value)


def test_a_model_of_clips_is_refused():
    model = model_of(squares(), FakeClock())
    films = dataclasses.replace(model, shape=(1, 4, 16, 16), codec=Identity())
    with pytest.raises(UserError, match="makes clips"):
        tune_edit(films, squares()[:1], 1)


def test_rungs_double_up_to_the_last():
    assert doubled(2, 16) == (2, 4, 8, 16)
    assert doubled(8, 40) == (8, 16, 32, 40)
    assert doubled(3, 3) == (3,)


def test_the_method_of_the_reference_is_tried_first_and_no_engine_is_compiled_unasked():
    model = model_of(squares(), FakeClock())
    ways = programs(model, "sdedit( strength=0.3 )", 2.0)
    assert ways[0].method == "sdedit(strength=0.3)"
    assert len(set(ways)) == len(ways)
    engines = {way.plan.engine for way in in_engines(ways[:1], Space(), model, 1)}
    assert "compile" not in engines
    assert "openvino" in engines
    asked = Space(engines=(("compile", "float32"),))
    assert {way.plan.engine for way in in_engines(ways[:1], asked, model, 1)} == {"compile"}


@pytest.fixture
def files(tiny_model, tmp_path, monkeypatch, few) -> Path:
    """A model's folder and a clip."""
    monkeypatch.setattr("hasten.tuning.space.ON_CPU", (("eager", "float32"),))
    save_folder(tiny_model(labels=3), tmp_path / "model")
    make_clip(tmp_path / "clip.mp4", moving(5, 16, 16))
    return tmp_path


def ran(*arguments: object) -> int:
    return _status([*map(str, arguments), "--quiet"])


def test_the_command_writes_a_plan_that_edit_takes_as_it_is(files, capsys):
    given = [files / "model", "--input", files / "clip.mp4", "--prompt", 1]
    out = files / "out"
    how = ["--task", "edit", "--minutes", 1000, "--guidance", 2, "--method", "sdedit(strength=0.9)"]
    assert ran("tune", *given, *how, "--out", out) == 0
    printed = capsys.readouterr().out
    assert "frames/s" in printed
    assert "The fastest edit that loses at most 0.1" in printed
    plan = ["--plan", out / "plan.json"]
    assert ran("edit", *given, *plan, "--out", files / "edited.mp4", "--json") == 0
    edited = json.loads(capsys.readouterr().out)
    best = EditPlan.read(out / "plan.json")
    assert edited["frames"] == 5
    report = json.loads((out / "report.json").read_text())
    assert edited["evaluations"] == report["records"][0]["score"]["evaluations"]
    assert edited["edited"] == report["records"][0]["score"]["edited"]
    options = ["--every", 1, "--similar", 0, "--method", "inversion(strength=0.5)"]
    assert ran("edit", *given, *plan, *options, "--out", files / "other.mp4", "--json") == 0
    assert json.loads(capsys.readouterr().out)["edited"] == 5
    assert best.method.startswith("sdedit")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--task", "edit", "--prompt", "1"], "name it with --input"),
        (["--task", "edit", "--input", "{clip}"], "an edit takes one --prompt"),
        (["--task", "edit", "--input", "{clip}", "--prompt", "1", "--batch", "2"], "batch: not"),
        (["--task", "edit", "--input", "{clip}", "--prompt", "1", "--data", "x"], "data: not for"),
        (["--task", "edit", "--input", "no.mp4", "--prompt", "1"], "no.mp4"),
        (["--input", "{clip}"], "--input: not for --task sample"),
        (["--method", "flowedit"], "--method: not for --task sample"),
        (["--task", "paint"], "paint"),
    ],
)
def test_the_command_names_what_does_not_fit(files, capsys, arguments, message):
    out = files / "out"
    told = [text.format(clip=files / "clip.mp4") for text in arguments]
    assert ran("tune", files / "model", *told, "--out", out) == 2
    said = capsys.readouterr().err.strip()
    assert message in said
    assert len(said.splitlines()) == 1
    assert not out.exists()
