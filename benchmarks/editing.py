"""Edits of drawn pictures and clips, where the right answer is known: ``python -m
benchmarks.editing [pictures] [clips]``.

Pictures: objects are recoloured, replaced, added, removed and moved by each method, with and
without the mask of what has to change; prompt accuracy says whether the edit shows what was asked,
PSNR whether the rest stayed. Clips: one object of a moving scene is recoloured, frame by frame,
from key frames, and by what costs a fifth (repeating and blending every fifth edited frame).
"""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

import hasten
from benchmarks.results_io import write
from hasten.core.ask import MAIN
from hasten.core.model import Model
from hasten.data.shapes.captions import RELATED
from hasten.data.shapes.drawing import coverage, drawn
from hasten.data.shapes.motion import (
    MovingScene,
    flow,
    frames,
    moving_scene,
    occlusion,
    unchanged,
)
from hasten.data.shapes.scenes import COLOURS, SHAPES, Scene, Thing, scene, single
from hasten.editing.edit import Editor, edit
from hasten.editing.method import SOURCE, methods
from hasten.editing.stream import Stream, Streaming
from hasten.measuring.prompts import prompt_accuracy
from hasten.measuring.video import background_psnr, edit_strength, flicker, warp_error

NAME = "builtin:shapes"
KINDS = ("recolour", "replace", "add", "remove", "move")
EACH, CLIPS, FRAMES, FIFTH = 40, 125, 8, 5
STEPS, MOST = 20, 60.0  # dB that count as unchanged
METHODS = (
    "sdedit(strength=0.5)",
    "sdedit(strength=0.8)",
    "inversion(strength=0.8)",
    "rf-inversion",
    "flowedit(strength=0.66)",
    "flowedit(strength=0.9)",
    "flowalign(strength=0.9, scale=6.0)",
)
Row = dict[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Edit:
    """A picture, what it shows, what it should show, and where it has to change for that."""

    kind: str
    source: Scene
    wanted: Scene

    @property
    def mask(self) -> torch.Tensor:
        """(h, w), 1 where the two scenes differ, and two pixels around."""
        here, there = set(self.source.things), set(self.wanted.things)
        parts = [torch.from_numpy(coverage(thing) > 0.0) for thing in here ^ there]
        whole = torch.stack(parts).any(0).float()
        return F.max_pool2d(whole[None, None], 5, 1, 2)[0, 0]


def said(shown: Scene) -> str:
    """A plain caption."""
    things = [f"a {thing.size} {thing.colour} {thing.shape}" for thing in shown.things]
    if shown.relation is not None:
        return f"{things[0]} {RELATED[shown.relation][0]} {things[1]}"
    return " and ".join(things)


def other(values: Sequence[str], than: str, number: int) -> str:
    """One of ``values`` but ``than``."""
    left = [value for value in values if value != than]
    return left[number % len(left)]


def edits() -> list[Edit]:
    """The same edits every time, ``EACH`` of every kind."""
    pairs = _pairs()
    out = []
    for number in range(EACH):
        alone = single(11, number)
        (thing,) = alone.things
        colour = other(list(COLOURS), thing.colour, number)
        shape = other(SHAPES, thing.shape, number)
        for kind, change in (("recolour", {"colour": colour}), ("replace", {"shape": shape})):
            changed = dataclasses.replace(thing, **change)
            wanted = dataclasses.replace(alone, things=(changed,))
            out.append(Edit(kind=kind, source=alone, wanted=wanted))
        both = next(pairs)
        less = dataclasses.replace(both, things=both.things[:1], relation=None)
        plain = dataclasses.replace(both, relation=None)
        out.append(Edit(kind="add", source=less, wanted=plain))
        out.append(Edit(kind="remove", source=plain, wanted=less))
        out.append(Edit(kind="move", source=both, wanted=_swapped(both)))
    return out


def _pairs() -> Iterator[Scene]:
    """Scenes of two different objects beside or above each other."""
    number = 0
    while True:
        shown = scene(12, number)
        number += 1
        beside = shown.relation not in (None, "inside")
        if beside and shown.things[0].look != shown.things[1].look:
            yield shown


OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}


def _swapped(both: Scene) -> Scene:
    """The objects in each other's places."""
    first, second = both.things

    def at(thing: Thing, place: Thing) -> Thing:
        return dataclasses.replace(thing, x=place.x, y=place.y)

    assert both.relation is not None
    things = (at(first, second), at(second, first))
    return dataclasses.replace(both, things=things, relation=OPPOSITE[both.relation])


def pictures() -> None:
    """Prompt accuracy and what stayed, for each method, with and without masks."""
    model, chosen, plan = hasten.load(NAME), edits(), plan_of(hasten.load(NAME))
    source = drawn([one.source for one in chosen]).float() / 255
    masks = torch.stack([one.mask for one in chosen])
    asked = [said(one.wanted) for one in chosen]
    shown = [said(one.source) for one in chosen]
    rows = []
    for method in (*METHODS, "masked(strength=1.0)", "masked(resample=3)"):
        for masked in (False, True):
            if method.startswith("masked") and not masked:
                continue
            options = {"source_prompt": shown, "method": method, "plan": plan}
            region = masks if masked else None
            made = edit(model, source, asked, mask=region, **options)
            row = {"method": method, "mask": masked, "n": len(chosen), "plan": str(plan)}
            rows.append(row | judged(made, source, masks, asked, chosen))
            print(rows[-1], file=sys.stderr, flush=True)
    untouched = judged(source, source, masks, asked, chosen)
    through = judged(model.codec.decode(model.codec.encode(source)), source, masks, asked, chosen)
    rows += [{"method": "nothing", **untouched}, {"method": "autoencoder alone", **through}]
    write("editing_pictures", f"edits of {NAME}, {EACH} of each of {', '.join(KINDS)}", rows)


def plan_of(model: Model) -> hasten.Plan:
    """The steps that edits take, with the model's guidance."""
    guidance = float(model.plan["guidance"])  # type: ignore[arg-type]
    return hasten.Plan(
        solver="dpmpp(order=2)", grid="uniform", steps=STEPS, guidance=guidance, engine="openvino"
    )


def judged(
    made: torch.Tensor,
    source: torch.Tensor,
    masks: torch.Tensor,
    asked: list[str],
    chosen: list[Edit],
) -> Row:
    """Whether edits show what was asked, by kind, and what they left alone."""
    kept, moved = [], []
    for one, before, mask in zip(made, source, masks, strict=True):
        pair = one[None], before[None]
        kept.append(min(background_psnr(*pair, mask.bool()), MOST))
        moved.append(edit_strength(*pair, mask.bool()))
    by_kind = {}
    for kind in KINDS:
        places = [number for number, one in enumerate(chosen) if one.kind == kind]
        some = prompt_accuracy(made[places], [asked[place] for place in places])
        by_kind[kind] = some.share.value
    accuracy = prompt_accuracy(made, asked).share
    return {
        "prompt_accuracy": accuracy.value,
        "interval": [accuracy.low, accuracy.high],
        "by_kind": by_kind,
        "background_db": float(np.mean(kept)),
        "strength": float(np.mean(moved)),
    }


def recoloured(moving: MovingScene, number: int) -> MovingScene:
    """The clip with its first object in another colour."""
    first, *rest = moving.scene.things
    things = (dataclasses.replace(first, colour=other(list(COLOURS), first.colour, number)), *rest)
    return dataclasses.replace(moving, scene=dataclasses.replace(moving.scene, things=things))


def clips(method: str = "flowedit(strength=0.9)") -> None:
    """Milliseconds a frame, and how steady and right the frames are."""
    model = hasten.load(NAME)
    plan = plan_of(model)
    chosen = [moving_scene(13, number, FRAMES) for number in range(CLIPS)]
    sources = [drawn(frames(moving)).float() / 255 for moving in chosen]
    wanted = [recoloured(moving, number) for number, moving in enumerate(chosen)]
    asked = [[said(shown) for shown in frames(moving)] for moving in wanted]
    editor = Editor.of(hasten.build(model, plan), methods.parse(method), masked=False)

    def streamed(**settings: Any) -> Callable[[int], torch.Tensor]:
        def made(number: int) -> torch.Tensor:
            texts = asked[number][0], said(frames(chosen[number])[0])
            conditions = {
                MAIN: model.condition(1, texts[0]),
                SOURCE: model.condition(1, texts[1]),
            }
            stream = Stream(editor, conditions, settings=Streaming(**settings))
            return torch.stack(list(stream(iter(sources[number]))))

        return made

    by_frame = streamed(depth=1, shared_noise=False)
    ways: dict[str, Callable[[int], torch.Tensor]] = {
        "frame by frame": by_frame,
        "frame by frame, shared noise": streamed(depth=1),
        "stream batching, shared noise": streamed(),
        f"key frame every {FRAMES}": streamed(every=FRAMES),
        f"every {FIFTH}th edited, repeated": lambda number: _held(by_frame, number, blend=False),
        f"every {FIFTH}th edited, blended": lambda number: _held(by_frame, number, blend=True),
    }
    rows = []
    for name, way in ways.items():
        way(0)  # what it compiles
        began = time.perf_counter()
        made = [way(number) for number in range(CLIPS)]
        seconds = time.perf_counter() - began
        share = FIFTH if "th edited" in name else 1  # the others were made to be thrown away
        took = 1e3 * seconds / CLIPS / FRAMES / share
        row = {"way": name, "method": method, "ms_a_frame": took}
        rows.append(row | steady(made, sources, chosen, asked))
        print(rows[-1], file=sys.stderr, flush=True)
    write("editing_clips", f"{CLIPS} clips of {FRAMES} frames, one object recoloured", rows)


def _held(way: Callable[[int], torch.Tensor], number: int, *, blend: bool) -> torch.Tensor:
    """What costs a fifth: every fifth edited frame, held or blended into the next."""
    whole = way(number)
    out = whole.clone()
    for place in range(len(whole)):
        first = place - place % FIFTH
        second = min(first + FIFTH, len(whole) - 1)
        share = (place - first) / max(second - first, 1) if blend else 0.0
        out[place] = torch.lerp(whole[first], whole[second], share)
    return out


def steady(
    made: list[torch.Tensor],
    sources: list[torch.Tensor],
    chosen: list[MovingScene],
    asked: list[list[str]],
) -> Row:
    """Means over clips: prompt accuracy of frames, warp error by the true flow, flicker."""
    every, texts = torch.cat(made), [text for some in asked for text in some]
    warps, flickers = [], []
    for clip, moving in zip(made, chosen, strict=True):
        steps = range(FRAMES - 1)
        moves = torch.stack([flow(moving, frame) for frame in steps])
        valid = torch.stack([~occlusion(moving, frame) for frame in steps])
        warps.append(warp_error(clip, moves, valid))
        flickers.append(flicker(clip, unchanged(moving)))
    met = prompt_accuracy(every, texts).share
    changed = torch.cat(
        [(one - two).abs().mean()[None] for one, two in zip(made, sources, strict=True)]
    )
    return {
        "prompt_accuracy": met.value,
        "interval": [met.low, met.high],
        "n": len(every),
        "warp_error": float(np.mean(warps)),
        "flicker": float(np.mean(flickers)),
        "strength": float(changed.mean()),
    }


if __name__ == "__main__":
    for part in sys.argv[1:] or ("pictures", "clips"):
        {"pictures": pictures, "clips": clips}[part]()
