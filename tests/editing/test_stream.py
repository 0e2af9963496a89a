"""Frames edited as they come: the same pictures as one by one, in fewer network calls."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from test_edit import gaussians, source

import hasten
from hasten.core.ask import MAIN
from hasten.editing.edit import Editor, edit
from hasten.editing.method import SOURCE, methods
from hasten.editing.stream import LONGEST, Stream, Streaming
from hasten.sampling import build

PLAN = "solver=dpmpp(order=2),grid=log-snr,steps=6,guidance=2"


class Counted:
    """A denoiser that notes how many calls of how many levels it answered together."""

    def __init__(self, denoiser: Any) -> None:
        self.denoiser, self.rows, self.levels = denoiser, [], []

    def __call__(self, calls: Any) -> Any:
        self.rows.append(sum(len(call) for call in calls))
        self.levels.append(len({level for call in calls for level in call.levels}))
        return self.denoiser(calls)


def streamed(method: str = "flowedit", **settings: Any) -> tuple[Stream, hasten.Model]:
    model = gaussians(0.3)
    editor = Editor.of(build(model, PLAN), methods.parse(method), masked=False)
    conditions = {MAIN: model.condition(1, 1), SOURCE: model.condition(1, 0)}
    return Stream(editor, conditions, seed=4, settings=Streaming(**settings)), model


@pytest.mark.parametrize("method", ["flowedit", "sdedit(strength=0.7)", "rf-inversion"])
@pytest.mark.parametrize("depth", [1, 2, 1000])
def test_a_stream_makes_the_pictures_that_edit_makes(method, depth):
    stream, model = streamed(method, depth=depth)
    frames = source(7)
    out = torch.stack(list(stream(iter(frames))))
    options = {"source_prompt": 0, "method": method, "plan": PLAN, "seed": 4}
    wanted = edit(model, frames, 1, shared_noise=True, **options)
    assert (out - wanted).abs().max() < 1e-5
    assert stream.edited == 7
    alone, _ = streamed(method, depth=depth, shared_noise=False)
    each = torch.stack(list(alone(iter(frames))))
    assert (each - edit(model, frames, 1, **options)).abs().max() < 1e-5


def test_every_network_call_finishes_a_frame_once_the_stream_is_full():
    stream, _ = streamed("sdedit(strength=1.0)")
    counted = Counted(stream.editor.sampler.denoiser.denoiser)
    stream.editor.sampler.denoiser.denoiser = counted
    list(stream(iter(source(20))))
    evaluations = stream.editor.program.evaluations
    assert evaluations == 6
    assert len(counted.rows) == 20 + evaluations - 1
    guided = 2
    assert max(counted.rows) == guided * evaluations
    assert max(counted.levels) == evaluations
    assert sum(counted.rows) == guided * evaluations * 20


def test_frames_come_out_as_soon_as_they_are_done_and_few_are_held():
    stream, _ = streamed("sdedit(strength=1.0)")
    taken = []

    def camera() -> Iterator[torch.Tensor]:
        for number in range(12):
            taken.append(number)
            yield source(1)[0]

    for done, _ in enumerate(stream(camera())):
        assert len(taken) <= done + stream.editor.program.evaluations


def test_a_frame_like_the_last_one_repeats_its_edit():
    stream, _ = streamed("flowedit", similar=0.01)
    first, second = source(2)
    frames = [first, first + 0.001, first, second, second, first]
    out = list(stream(iter(frames)))
    assert len(out) == 6
    assert (stream.edited, stream.repeated) == (3, 3)
    assert torch.equal(out[0], out[1])
    assert torch.equal(out[0], out[2])
    assert torch.equal(out[3], out[4])
    assert torch.equal(out[5], out[0])
    assert not torch.equal(out[0], out[3])


def test_a_still_clip_is_looked_at_again_from_time_to_time():
    stream, _ = streamed("flowedit", similar=0.01)
    out = list(stream(iter(source(1)[0].expand(3 * (LONGEST + 1), -1, -1, -1))))
    assert len(out) == 3 * (LONGEST + 1)
    assert stream.edited == 3


def test_a_slow_change_is_not_missed():
    stream, _ = streamed("flowedit", similar=0.01)
    frames = [source(1)[0] + 0.004 * number for number in range(12)]
    list(stream(iter(frames)))
    assert stream.edited == 4  # each differs by 0.012 from the last that was edited


def test_only_key_frames_are_asked_about_and_the_others_follow():
    stream, model = streamed("flowedit", every=4)
    frames = source(1)[0].expand(9, -1, -1, -1).clone()
    out = torch.stack(list(stream(iter(frames))))
    assert (stream.edited, stream.carried, stream.repeated) == (3, 6, 0)
    options = {"source_prompt": 0, "method": "flowedit", "plan": PLAN, "seed": 4}
    wanted = edit(model, frames[:1], 1, shared_noise=True, **options)
    assert (out - wanted).abs().max() < 0.02  # soft edges of what was changed


def test_a_frame_in_which_the_edit_is_lost_becomes_a_key_frame():
    stream, _ = streamed("flowedit", every=100)
    frames = [source(1)[0], source(1)[0], torch.ones(1, 8, 8), torch.ones(1, 8, 8)]
    assert len(list(stream(iter(frames)))) == 4
    assert (stream.edited, stream.carried) == (2, 2)


def test_key_frames_and_frames_alike_go_together():
    stream, _ = streamed("flowedit", every=4, similar=0.01)
    assert len(list(stream(iter(source(1)[0].expand(8, -1, -1, -1))))) == 8
    assert (stream.edited, stream.repeated) == (1, 7)


def test_no_frames_make_no_frames():
    stream, _ = streamed("flowedit")
    assert list(stream(iter([]))) == []


@pytest.mark.parametrize(
    "settings", [{"depth": 0}, {"similar": -0.1}, {"similar": 2.0}, {"every": 0}]
)
def test_settings_out_of_range_are_named(settings):
    with pytest.raises(hasten.UserError, match=next(iter(settings))):
        Streaming(**settings)
