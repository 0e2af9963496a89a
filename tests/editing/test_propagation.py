"""Edits of a key frame carried over to later frames, against the exact edit of every frame."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

from hasten.data.shapes.drawing import drawn
from hasten.data.shapes.motion import MovingScene, frames, moving_scene
from hasten.editing.propagation import Carrier, parts_of

COLOURS = {"red": "blue", "orange": "cyan", "yellow": "purple", "green": "pink"}


def pictures(scenes: list) -> torch.Tensor:
    return drawn(scenes).float() / 255


def recoloured(moving: MovingScene, **changes: str) -> MovingScene:
    """The same clip with its first object changed."""
    first, *rest = moving.scene.things
    colour = COLOURS.get(first.colour, "red")
    other = dataclasses.replace(first, **{"colour": colour, **changes})
    return dataclasses.replace(
        moving, scene=dataclasses.replace(moving.scene, things=(other, *rest))
    )


def psnr(one: torch.Tensor, other: torch.Tensor) -> float:
    return -10 * math.log10(float((one - other).square().mean()) + 1e-12)


def clips(count: int, length: int = 8) -> list[MovingScene]:
    return [moving_scene(5, number, length) for number in range(count)]


def test_a_recoloured_object_keeps_its_colour_as_it_moves():
    worst = []
    for moving in clips(24):
        source, wanted = pictures(frames(moving)), pictures(frames(recoloured(moving)))
        carrier = Carrier(source[0], wanted[0])
        made = [carrier(frame) for frame in source[1:]]
        assert all(frame is not None for frame in made), moving
        worst.append(min(psnr(one, two) for one, two in zip(made, wanted[1:], strict=True)))
    assert min(worst) > 26
    assert float(np.median(worst)) > 32


def test_it_is_nearer_than_repeating_the_key_frame():
    for moving in [one for one in clips(24) if one.motions[0].name in ("left", "right", "up")]:
        source, wanted = pictures(frames(moving)), pictures(frames(recoloured(moving)))
        carrier = Carrier(source[0], wanted[0])
        last = [carrier(frame) for frame in source[1:]][-1]
        assert psnr(last, wanted[-1]) > psnr(wanted[0], wanted[-1]) + 6


def test_what_was_not_changed_stays_bit_equal():
    moving = clips(1)[0]
    source, wanted = pictures(frames(moving)), pictures(frames(recoloured(moving)))
    made = Carrier(source[0], wanted[0])(source[1])
    touched = (made != source[1]).any(0)
    assert touched.float().mean() < 0.5
    assert torch.equal(Carrier(source[0], source[0])(source[1]), source[1])


def test_another_shape_moves_too():
    moving = next(one for one in clips(40) if one.motions[0].name == "right")
    shape = "star" if moving.scene.things[0].shape != "star" else "circle"
    source = pictures(frames(moving))
    wanted = pictures(frames(recoloured(moving, shape=shape)))
    carrier = Carrier(source[0], wanted[0])
    made = [carrier(frame) for frame in source[1:]]
    assert all(frame is not None for frame in made)
    assert psnr(made[-1], wanted[-1]) > 22


def test_a_frame_that_shows_something_else_is_not_guessed():
    one, other = (pictures(frames(moving)) for moving in clips(2))
    edited = pictures(frames(recoloured(clips(1)[0])))[0]
    assert Carrier(one[0], edited)(other[0]) is None


def test_parts_are_connected_regions():
    change = torch.zeros(1, 1, 32, 32)
    change[..., 4:10, 4:10] = 1
    change[..., 20:28, 18:30] = 0.3
    change[..., 0, 31] = 1  # too small for a part, even with its edge
    parts = parts_of(change)
    assert len(parts) == 2
    centres = sorted((round(part.x, 1), round(part.y, 1)) for part in parts)
    assert centres == [(6.5, 6.5), (23.5, 23.5)]


@pytest.mark.parametrize("size", [(64, 64), (48, 80)])
def test_frames_of_any_size(size):
    height, width = size
    key = torch.full((3, height, width), 0.5)
    key[:, 10:20, 10:20] = torch.tensor([0.9, 0.1, 0.1]).view(3, 1, 1)
    edited = key.clone()
    edited[:, 10:20, 10:20] = torch.tensor([0.1, 0.1, 0.9]).view(3, 1, 1)
    later = key.roll((2, 3), (1, 2))
    made = Carrier(key, edited)(later)
    assert (made - edited.roll((2, 3), (1, 2))).abs().mean() < 0.01
