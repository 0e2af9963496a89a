"""Drawn scenes and their captions: what is asked for can be read back, and is what is drawn."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import numpy as np
import pytest
import torch

import hasten
from hasten.data.drawn import Objects, Shapes, drawn
from hasten.data.shapes.captions import Asked, Wanted, asked, caption
from hasten.data.shapes.drawing import backdrop, coverage, distance, picture
from hasten.data.shapes.scenes import (
    COLOURS,
    GAP,
    REACH,
    RELATIONS,
    SHAPES,
    SIZE,
    Thing,
    crowd,
    related,
    scene,
)

SCENES = [scene(5, number) for number in range(300)]


def test_a_scene_is_the_same_every_time():
    assert SCENES[17] == scene(5, 17)
    assert SCENES[17] != scene(6, 17)
    assert caption(SCENES[17], 5, 17) == caption(scene(5, 17), 5, 17)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_shape_has_the_area_of_its_circle_and_reaches_as_far_as_it_says(shape):
    radius = 14.5
    thing = Thing(shape=shape, colour="red", size="large", x=32, y=32, radius=radius)
    assert coverage(thing).sum() == pytest.approx(math.pi * radius**2, rel=2e-3)
    angle = np.linspace(0, 2 * math.pi, 3601)
    reach = radius * REACH[shape]
    ring = [
        distance(shape, r * np.cos(angle), r * np.sin(angle), radius) for r in (reach, reach - 1)
    ]
    assert ring[0].min() > -1e-2
    assert ring[1].min() < 0


def test_objects_lie_within_the_picture_and_apart_where_none_is_inside_another():
    for shown in SCENES:
        for thing in shown.things:
            assert min(thing.x, thing.y) > thing.reach * 0.8
            assert max(thing.x, thing.y) < SIZE - thing.reach * 0.8
        if shown.relation == "inside":
            continue
        for a, b in itertools.combinations(shown.things, 2):
            assert math.hypot(a.x - b.x, a.y - b.y) >= a.reach + b.reach + GAP


def test_relations_are_as_drawn_and_all_of_them_occur():
    counts = Counter(shown.relation for shown in SCENES)
    assert set(counts) == {None, *RELATIONS}
    assert min(counts.values()) > 10
    for shown in SCENES:
        if shown.relation is not None:
            first, second = shown.things
            holds = [name for name in RELATIONS[:4] if related(first, second, name)]
            assert holds == [shown.relation] or shown.relation == "inside"
            assert related(first, second, "inside") == (shown.relation == "inside")


def test_every_caption_can_be_read_back():
    for number, shown in enumerate(SCENES):
        wanted = asked(caption(shown, 5, number))
        assert wanted.relation == shown.relation
        orders = itertools.permutations(shown.things)
        if wanted.relation is not None:
            orders = iter([shown.things])
        assert any(
            len(order) == len(wanted.things)
            and all(want.is_met(thing) for want, thing in zip(wanted.things, order, strict=True))
            for order in orders
        )


@pytest.mark.parametrize(
    ("prompt", "wanted"),
    [
        ("A big red circle.", Asked(things=(Wanted(shape="circle", colour="red", size="large"),))),
        ("three stars", Asked(things=(Wanted(shape="star"),) * 3)),
        (
            "a tiny ring within a blue square on a dark striped background",
            Asked(
                things=(Wanted(shape="ring", size="small"), Wanted(shape="square", colour="blue")),
                relation="inside",
            ),
        ),
        (
            "there are two pink crosses and a star",
            Asked(things=(*(Wanted(shape="cross", colour="pink"),) * 2, Wanted(shape="star"))),
        ),
    ],
)
def test_prompts_of_people_are_read(prompt, wanted):
    assert asked(prompt) == wanted


@pytest.mark.parametrize(
    ("prompt", "why"),
    [
        ("red", "names no shape"),
        ("a red cat", "has the word 'cat'"),
        ("four red circles", "has the word 'four'"),
        ("3 red circles", "has the word '3'"),
        ("a red and blue circle", "says 'red' and 'blue' of one object"),
        ("a ring above a star below a circle", "one relation"),
        ("a ring above", "one relation"),
    ],
)
def test_prompts_that_cannot_be_read_are_refused(prompt, why):
    with pytest.raises(hasten.UserError, match=why):
        asked(prompt)


def test_a_picture_is_its_background_where_nothing_is():
    for shown in SCENES[:40]:
        covered = sum(coverage(thing) for thing in shown.things)
        where = np.broadcast_to(covered == 0, (3, SIZE, SIZE))
        assert (picture(shown)[where] == backdrop(shown)[where]).all()


def test_drawn_data_are_pictures_and_captions_by_number():
    data = drawn.parse("shapes(count=7, seed=3)")
    assert len(data) == 7
    pictures = data[np.array([6, 2])]
    assert pictures.shape == (2, *data.shape)
    assert pictures.dtype == torch.uint8
    assert torch.equal(pictures[1], data[np.array([2])][0])
    assert data.captions(np.array([6, 2])) == [caption(scene(3, n), 3, n) for n in (6, 2)]
    with pytest.raises(hasten.UserError, match="count is 0"):
        drawn.parse("shapes(count=0)")


def test_a_crowd_has_more_objects_and_they_do_not_touch():
    crowds = [crowd(0, number) for number in range(200)]
    assert crowds == [crowd(0, number) for number in range(200)]
    scenes = [scene(0, number) for number in range(200)]
    few, many = (np.mean([len(each.things) for each in some]) for some in (scenes, crowds))
    assert few < 2 < 3 < many
    pairs = [pair for each in crowds for pair in itertools.combinations(each.things, 2)]
    within = [related(inner, outer, "inside") for outer, inner in pairs]
    assert any(within)
    for (a, b), inside in zip(pairs, within, strict=True):
        assert inside or math.hypot(a.x - b.x, a.y - b.y) >= a.reach + b.reach


def test_a_share_of_the_scenes_are_crowds_which_have_no_captions():
    data = Shapes(count=400, crowded=0.75)
    scenes = data.scenes(np.arange(400))
    assert sum(each == crowd(0, number) for number, each in enumerate(scenes)) == 300
    assert sum(each == scene(0, number) for number, each in enumerate(scenes)) == 100
    with pytest.raises(hasten.UserError, match="crowds have no captions; set it to 0"):
        data.captions(np.arange(2))
    with pytest.raises(hasten.UserError, match="crowded"):
        Shapes(crowded=1.5)


def test_objects_stand_alone_and_their_labels_say_which_they_are():
    data = Objects(count=300, seed=3)
    assert data.labels.shape == (300,)
    assert set(data.labels.tolist()) <= set(range(len(SHAPES) * len(COLOURS)))
    index = np.array([5, 17, 250])
    for number, alone in zip(index, data.scenes(index), strict=True):
        (thing,) = alone.things
        shape, colour = divmod(int(data.labels[number]), len(COLOURS))
        assert (thing.shape, thing.colour) == (SHAPES[shape], list(COLOURS)[colour])
        assert thing.shape in data.captions(np.array([number]))[0]
    again = Objects(count=1000, seed=3)
    assert torch.equal(again[index], data[index])
    assert not torch.equal(Objects(count=300, seed=4)[index], data[index])
