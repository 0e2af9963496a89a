"""Sizes and windows that networks take."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hasten.core.errors import UserError
from hasten.media.framing import blended, cropped_back, padded, windows


def test_the_last_row_and_column_are_repeated():
    frames = torch.arange(6, dtype=torch.uint8).reshape(1, 2, 3)
    wide, crop = padded(frames, 4)
    assert wide.tolist() == [[[0, 1, 2, 2], [3, 4, 5, 5], [3, 4, 5, 5], [3, 4, 5, 5]]]
    assert crop == (2, 3)


@pytest.mark.parametrize("multiple", [1, 8, 16, 7])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.bfloat16])
def test_cropping_back_undoes_padding(multiple, dtype):
    frames = (torch.rand(2, 3, 13, 24) * 255).to(dtype)
    wide, crop = padded(frames, multiple)
    assert [side % multiple for side in wide.shape[-2:]] == [0, 0]
    assert [side - other for side, other in zip(wide.shape[-2:], (13, 24), strict=True)] < [
        *(multiple, multiple)
    ]
    assert torch.equal(cropped_back(wide, crop), frames)


def test_frames_that_fit_are_given_back_as_they_are():
    frames = torch.rand(3, 16, 8)
    assert padded(frames, 8)[0] is frames


@given(st.integers(1, 200), st.integers(1, 40), st.data())
def test_windows_cover_every_frame_and_overlap_enough(count, size, data):
    overlap = data.draw(st.integers(0, size - 1))
    spans = windows(count, size, overlap)
    assert set().union(*spans) == set(range(count))
    assert {len(span) for span in spans} == {min(size, count)}
    assert all(a.stop - b.start >= overlap for a, b in itertools.pairwise(spans))
    assert all(a.start < b.start for a, b in itertools.pairwise(spans))


def test_there_is_no_window_too_many():
    assert windows(10, 4, 1) == [range(4), range(3, 7), range(6, 10)]
    assert windows(8, 4, 0) == [range(4), range(4, 8)]
    assert windows(3, 8, 2) == [range(3)]


@given(st.integers(1, 60), st.integers(1, 12), st.data())
def test_windows_that_agree_are_blended_to_the_same_bits(count, size, data):
    spans = windows(count, size, data.draw(st.integers(0, size - 1)))
    clip = torch.randn(count, 2, 3)
    out = list(blended(spans, (clip[span.start : span.stop] for span in spans)))
    assert torch.equal(torch.stack(out), clip)


def test_weights_of_two_windows_are_linear():
    spans = windows(9, 6, 3)
    assert spans == [range(6), range(3, 9)]
    out = torch.stack(list(blended(spans, [torch.zeros(6, 1), torch.ones(6, 1)]))).flatten()
    assert torch.equal(out, torch.tensor([0, 0, 0, 0.25, 0.5, 0.75, 1, 1, 1]))


def test_where_three_windows_meet_weights_still_sum_to_one():
    spans = windows(12, 8, 6)
    ones = torch.eye(len(spans), dtype=torch.float64)
    parts = [ones[number].expand(8, -1) for number in range(len(spans))]
    weights = torch.stack(list(blended(spans, parts)))
    assert bool((weights >= 0).all())
    # Halves of halves: a sum may be off by the last bit of float64.
    assert (weights.sum(1) - 1).abs().max() <= 2**-52


def test_a_frame_comes_as_soon_as_no_later_window_holds_it():
    spans = windows(10, 4, 1)
    asked = []

    def parts():
        for number, span in enumerate(spans):
            asked.append(number)
            yield torch.zeros(len(span), 1)

    seen = [len(asked) for _ in blended(spans, parts())]
    assert seen == [1, 1, 1, 2, 2, 2, 3, 3, 3, 3]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: padded(torch.rand(3, 4, 4), 0), "multiple is 0"),
        (lambda: padded(torch.rand(4), 8), "it takes"),
        (lambda: cropped_back(torch.rand(3, 4, 4), (5, 4)), "takes more"),
        (lambda: windows(10, 4, 4), "overlap is 4; it takes a whole number from 0 to 3"),
        (lambda: windows(0, 4, 1), "count is 0"),
        (lambda: list(blended(windows(8, 4, 0), [torch.rand(3, 1)])), "part 1 of 2 has 3 frames"),
        (lambda: list(blended(windows(8, 4, 0), [torch.rand(4, 1)])), "1 parts for 2 windows"),
        (lambda: list(blended(windows(4, 4, 0), [torch.rand(4, 1)] * 2)), "part 2 of 1"),
        (lambda: list(blended([range(4), range(6, 8)], [torch.rand(4, 1)])), "starts at frame 6"),
        (lambda: list(blended([range(4)], [torch.ones(4, 1, dtype=torch.uint8)])), "floating"),
    ],
)
def test_what_does_not_fit_is_refused(call, words):
    with pytest.raises(UserError, match=words):
        call()
