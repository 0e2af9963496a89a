"""Drawn scenes in motion: captions read back, and flow and masks are those of the drawing."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import numpy as np
import pytest
import torch

import hasten
from hasten.data.drawn import drawn
from hasten.data.shapes import captions
from hasten.data.shapes.captions import Wanted
from hasten.data.shapes.drawing import coverage, distance, picture
from hasten.data.shapes.drawing import drawn as draw
from hasten.data.shapes.motion import (
    DIRECTIONS,
    GROWTH,
    MOTIONS,
    TRAVEL,
    Motion,
    MovingScene,
    flow,
    frames,
    moving_scene,
    object_mask,
    occlusion,
    unchanged,
)
from hasten.data.shapes.motion_captions import (
    AskedMotion,
    asked_motion,
    motion_caption,
    motion_words,
)
from hasten.data.shapes.scenes import GAP, SIZE, Scene, Thing

SCENES = [moving_scene(5, number) for number in range(200)]
DOWN, ACROSS = np.mgrid[0:SIZE, 0:SIZE] + 0.5
CIRCLE = Thing(shape="circle", colour="red", size="large", x=24, y=40, radius=14)


def moving_circle(**motion: float) -> MovingScene:
    scene = Scene(things=(CIRCLE,))
    return MovingScene(scene=scene, motions=(Motion(name="", **motion),), frames=3)


def test_a_moving_scene_is_the_same_every_time():
    assert SCENES[17] == moving_scene(5, 17)
    assert SCENES[17] != moving_scene(6, 17)
    assert motion_caption(SCENES[17], 5, 17) == motion_caption(moving_scene(5, 17), 5, 17)


def test_the_motion_is_the_same_in_any_number_of_frames():
    for number in range(40):
        few, many = moving_scene(5, number, 2), moving_scene(5, number, 31)
        assert few.scene == many.scene
        assert len(frames(many)) == 31
        for ours, theirs in zip(few.things(1), many.things(30), strict=True):
            for name in ("x", "y", "radius"):
                assert getattr(ours, name) == pytest.approx(getattr(theirs, name), abs=1e-9)


def test_no_object_leaves_the_picture_or_touches_another_in_any_frame():
    for number, frame in itertools.product(range(100), range(16)):
        things = moving_scene(5, number, 16).things(frame)
        for thing in things:
            assert min(thing.x, thing.y) >= thing.reach
            assert max(thing.x, thing.y) <= SIZE - thing.reach
        for a, b in itertools.combinations(things, 2):
            assert math.hypot(a.x - b.x, a.y - b.y) >= a.reach + b.reach + GAP


def test_every_motion_occurs_and_is_what_its_name_says():
    counts = Counter(motion.name for moving in SCENES for motion in moving.motions)
    assert set(counts) == set(MOTIONS)
    assert min(counts.values()) > 10
    for moving in SCENES:
        for first, last, motion in zip(
            moving.things(0), moving.things(moving.frames - 1), moving.motions, strict=True
        ):
            way = last.x - first.x, last.y - first.y
            signs = DIRECTIONS.get(motion.name, (0, 0))
            assert tuple(np.sign(way)) == signs
            assert motion.name not in DIRECTIONS or TRAVEL[0] - 1e-9 <= math.hypot(*way)
            ratio = last.radius / first.radius
            low, high = GROWTH
            if motion.name in ("grows", "shrinks"):
                assert low - 1e-9 <= (ratio if motion.name == "grows" else 1 / ratio) <= high
            else:
                assert last.radius == first.radius


def test_the_background_is_the_same_in_every_frame():
    for moving in SCENES[:20]:
        clip = draw(frames(moving))
        same = unchanged(moving)
        assert bool((clip[:, :, same] == clip[:1, :, same]).all())
        assert int(same.sum()) > 0
        moves = any(motion.name != "still" for motion in moving.motions)
        assert bool(same.all()) != moves


def test_a_still_object_is_unchanged_and_all_that_a_moving_one_crosses_is_not():
    still = moving_circle()
    assert not bool((object_mask(still, 0) & object_mask(still, 2) & ~object_mask(still, 1)).any())
    across = moving_circle(x=3.0)
    assert not bool((unchanged(across) & object_mask(across, 1)).any())


def test_every_caption_of_motion_can_be_read_back():
    for number, moving in enumerate(SCENES):
        wanted = asked_motion(motion_caption(moving, 5, number))
        assert None not in wanted.motions
        pairs = list(zip(moving.scene.things, moving.motions, strict=True))
        assert any(
            all(
                want.is_met(thing) and said == motion.name
                for want, said, (thing, motion) in zip(
                    wanted.things, wanted.motions, order, strict=True
                )
            )
            for order in itertools.permutations(pairs)
        )


def test_captions_are_made_of_few_words_and_say_things_in_many_ways():
    texts = [motion_caption(moving, 5, number) for number, moving in enumerate(SCENES)]
    assert {word for text in texts for word in text.split()} <= set(motion_words())
    assert len(set(texts)) > 180
    new = set(motion_words()) - set(captions.words())
    assert len(new) == 14  # pictures are captioned without them
    assert set(captions.words()) < set(motion_words())


RED_CIRCLE = Wanted(shape="circle", colour="red")
STAR = Wanted(shape="star", colour="blue", size="small")


@pytest.mark.parametrize(
    ("prompt", "things", "motions"),
    [
        ("A red circle moves left.", (RED_CIRCLE,), ("left",)),
        ("a small blue star that grows", (STAR,), ("grows",)),
        ("a small growing blue star", (STAR,), ("grows",)),
        ("there is a red circle that is moving to the right", (RED_CIRCLE,), ("right",)),
        (
            "a green square moving up next to a still yellow ring",
            (Wanted(shape="square", colour="green"), Wanted(shape="ring", colour="yellow")),
            ("up", "still"),
        ),
        (
            "a red circle shrinks while a tiny blue star stands still on a dark plain background",
            (RED_CIRCLE, STAR),
            ("shrinks", "still"),
        ),
        ("a video of two red circles moving down", (RED_CIRCLE,) * 2, ("down", "down")),
        ("two red circles and a growing little blue star", (RED_CIRCLE,) * 2 + (STAR,), "--g"),
        ("a red circle, a small blue star that shrinks", (RED_CIRCLE, STAR), "-s"),
        ("a red circle", (RED_CIRCLE,), (None,)),
    ],
)
def test_prompts_of_people_are_read(prompt, things, motions):
    letters = {"-": None, "g": "grows", "s": "shrinks"}
    wanted = tuple(letters.get(motion, motion) for motion in motions)
    assert asked_motion(prompt) == AskedMotion(things=things, motions=wanted)


@pytest.mark.parametrize(
    ("prompt", "why"),
    [
        ("a red circle moves", "does not say where to"),
        ("a red circle moving left of a star", "does not say where to"),
        ("a red circle jumps", "has the word 'jumps'"),
        ("moves left", "names no shape"),
        ("a still red circle moves left", "two motions of one object"),
        ("a red circle moving left that grows", "two motions of one object"),
        ("a still growing red circle", "two motions of one object"),
        ("a red circle and moves left", "motion of no object"),
        ("a growing circle above a star", "has the relation 'above'"),
    ],
)
def test_prompts_that_cannot_be_read_are_refused(prompt, why):
    with pytest.raises(hasten.UserError, match=why):
        asked_motion(prompt)


def test_drawn_clips_are_clips_and_captions_by_number():
    data = drawn.parse("moving-shapes(count=9, seed=3, frames=5)")
    assert (len(data), data.shape) == (9, (5, 3, SIZE, SIZE))
    index = np.array([7, 2])
    clips = data[index]
    assert clips.shape == (2, *data.shape)
    assert clips.dtype == torch.uint8
    assert torch.equal(clips[1], data[np.array([2])][0])
    assert data[np.array([], int)].shape == (0, *data.shape)
    moving = moving_scene(3, 7, 5)
    assert data.captions(index)[0] == motion_caption(moving, 3, 7)
    assert torch.equal(clips[0], draw(frames(moving)))
    with pytest.raises(hasten.UserError, match="frames is 1"):
        drawn.parse("moving-shapes(frames=1)")
    with pytest.raises(hasten.UserError, match="frames is 1"):
        moving_scene(0, 0, frames=1)


def test_flow_leads_every_point_of_an_object_to_the_same_point_of_it():
    """Its signed distance there is what it was, as much larger as the object is."""
    for moving in SCENES[:40]:
        ways = flow(moving, 3).double().numpy()
        covered = np.zeros((SIZE, SIZE), bool)
        for now, then in zip(moving.things(3), moving.things(4), strict=True):
            inside = coverage(now) > 0
            covered |= inside
            before = distance(now.shape, ACROSS - now.x, DOWN - now.y, now.radius)
            x, y = ACROSS + ways[0] - then.x, DOWN + ways[1] - then.y
            after = distance(then.shape, x, y, then.radius) * (now.radius / then.radius)
            assert abs(after - before)[inside].max() < 1e-4
        assert (ways[:, ~covered] == 0).all()
        assert (covered == object_mask(moving, 3).numpy()).all()


def test_flow_is_the_velocity_or_grows_with_the_distance_from_the_middle():
    inside = object_mask(moving_circle(), 0)
    assert flow(moving_circle(x=2.5, y=-1.0), 0)[:, inside].unique(dim=1).tolist() == [[2.5], [-1]]
    growing = flow(moving_circle(growth=1.4), 0).numpy()
    assert growing[0][inside.numpy()] == pytest.approx(0.1 * (ACROSS - 24)[inside.numpy()])
    assert growing[1][inside.numpy()] == pytest.approx(0.1 * (DOWN - 40)[inside.numpy()])


def test_what_an_object_covers_next_and_soft_edges_are_occluded():
    moving = moving_circle(x=4.0)
    occluded = occlusion(moving, 0)
    now, then = (coverage(moving.things(frame)[0]) for frame in (0, 1))
    assert bool(occluded[torch.from_numpy((now == 0) & (then > 0))].all())  # hidden in the next
    assert bool(occluded[torch.from_numpy((now > 0) & (now < 1))].all())
    assert not bool(occluded[torch.from_numpy((now == 0) & (then == 0))].any())
    # It moves by whole pixels, so what lies a pixel within its edge is read within it.
    within = distance("circle", ACROSS - 24, DOWN - 40, 14.0) < -2.0
    assert not bool(occluded[torch.from_numpy(within)].any())


def test_the_mask_of_one_object_leaves_the_others_out():
    moving = next(moving for moving in SCENES if len(moving.motions) == 2)
    both, one, two = (object_mask(moving, 2, number) for number in (None, 0, 1))
    assert bool((both == one | two).all())
    assert not bool((one & two).any())
    first = Scene(**{**vars(moving.scene), "things": moving.things(2)[:1]})
    changed = (picture(first) != picture(Scene(**{**vars(first), "things": ()}))).any(0)
    assert not bool((torch.from_numpy(changed) & ~one).any())


def test_frames_and_objects_that_are_not_there_are_refused():
    moving = moving_circle(x=1.0)
    with pytest.raises(hasten.UserError, match="frame is 3"):
        moving.things(3)
    with pytest.raises(hasten.UserError, match="frame is 2, the last; flow leads to the next"):
        flow(moving, 2)
    with pytest.raises(hasten.UserError, match="frame is 2, the last"):
        occlusion(moving, 2)
    with pytest.raises(hasten.UserError, match="number is 1"):
        object_mask(moving, 0, 1)
