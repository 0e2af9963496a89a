"""Random numbers that depend on what they are for, never on what was drawn before.

A generator has a key of whole numbers. The noise of a picture has the key (seed, picture, stream),
and a training step has the key (seed, step, process, stream), with the number of the part before
the stream where a step is taken in several parts. The names below are the only streams and reserved
seeds there are, so that two purposes never share their numbers by accident.
"""

from __future__ import annotations

import enum

import numpy as np
import torch


@enum.unique
class Stream(enum.IntEnum):
    """What the random numbers of one picture are for: the last number of (seed, picture, stream).

    ``START``: the noise that sampling begins with. ``SOLVER``: the noise that a stochastic solver
    adds on the way. ``TUNER``: the noise of a tuner's trials. ``ODE_ERROR``: the noise from which
    the converged solution is computed. ``LIKELIHOOD``: dequantization and the trace estimate.
    ``FEATURE_CACHE``: the calibration noise of a learned cache mask.
    """

    START = 0
    SOLVER = 1
    TUNER = 3
    ODE_ERROR = 7
    LIKELIHOOD = 11
    FEATURE_CACHE = 13


@enum.unique
class StepStream(enum.IntEnum):
    """What the random numbers of one training step are for: the last number of its key.

    ``OBJECTIVE``: everything an objective draws. ``FLIPS``: which pictures are mirrored.
    ``DROPOUT``: the dropout masks of the network. ``SHIFTS``: by how much pictures are shifted.
    None of them is 0, because a key that ends in zeros gives the same numbers as the key without
    them.
    """

    OBJECTIVE = 1
    FLIPS = 2
    DROPOUT = 3
    SHIFTS = 4


@enum.unique
class Seed(enum.IntEnum):
    """Seeds reserved for measurements and calibrations: the first number of a key.

    Noise that something was calibrated or trained on must not be the noise that it is judged by.
    """

    QUALITY = 1
    QUANTIZATION = 5
    QUANTIZATION_SENSITIVITY = 6
    VALIDATION = 11
    PRUNING = 17
    SMALL_NETWORK = 23
    STARTS = 77
    REFERENCE_PAIRS = 1_000_003
    HELD_OUT_PAIRS = 2_000_003
    TRAJECTORIES = 3_000_003
    GITS = 4_000_003


def generator(*key: int, device: str | torch.device = "cpu") -> torch.Generator:
    """A fresh generator for ``key`` (seed, picture, stream; or seed, step, ...), the same every
    time."""
    state = np.random.SeedSequence([int(number) for number in key]).generate_state(2, np.uint32)
    seed = int(state[0]) << 32 | int(state[1])
    return torch.Generator(device).manual_seed(seed)
