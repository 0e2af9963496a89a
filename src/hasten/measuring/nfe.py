"""NFE: network evaluations of a picture, known beforehand or counted where the data decide."""

from __future__ import annotations

from hasten.sampling import Sampler

COUNTED = 3  # pictures, one at a time, where the number depends on the data


def nfe(sampler: Sampler) -> tuple[float, float]:
    """(evaluations, rounds) of one picture: its network evaluations, and how many network calls
    follow each other; those of the start are in both. A mean over a few pictures where they depend
    on the data."""
    before = sampler.resolved.start.evaluations(sampler.model.schedule) or 0
    if sampler.program is not None and not sampler.executor.adaptive:
        return before + sampler.program.evaluations, before + sampler.program.rounds
    label = None if sampler.model.labels is None else 0
    evaluations = rounds = 0.0
    for picture in range(COUNTED):
        sampler.sample(1, first=picture, condition=label)
        evaluations += sampler.usage.evaluations
        rounds += sampler.usage.rounds
    return before + evaluations / COUNTED, before + rounds / COUNTED
