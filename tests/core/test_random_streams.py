"""Named streams of random numbers are distinct, and the published ones stay what they were."""

from __future__ import annotations

import itertools

import torch

from hasten.core.random_streams import Seed, StepStream, Stream, generator


def drawn(*key: int) -> tuple[float, ...]:
    return tuple(torch.rand(3, generator=generator(*key)).tolist())


def test_all_named_streams_are_distinct():
    """Two purposes never draw the same numbers, whatever the seed, picture, step or process."""
    for seed, number in itertools.product((0, 1, 7, 77), (0, 1, 2, 13)):
        keys = [(seed, number, stream) for stream in Stream]
        keys += [(seed, number, process, part) for process in (0, 1, 2, 3) for part in StepStream]
        assert len({drawn(*key) for key in keys}) == len(keys)


def test_what_is_calibrated_on_never_is_what_is_measured_on():
    keys = [(seed, picture, Stream.START) for seed in Seed for picture in (0, 1, 2)]
    # A teacher's trajectories have the key (seed, picture), which is that of the stream 0.
    assert drawn(Seed.TRAJECTORIES, 1) == drawn(Seed.TRAJECTORIES, 1, Stream.START)
    assert len({drawn(*key) for key in keys}) == len(keys)


def test_the_noise_of_a_seed_stays_what_it_was():
    """Pictures of a seed are published; these are the numbers of versions before the names."""
    seeds = [generator(3, 5, stream).initial_seed() for stream in (Stream.START, Stream.SOLVER)]
    assert seeds == [16088967718096812702, 16145577966294135910]
