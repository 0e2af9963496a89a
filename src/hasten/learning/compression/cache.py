"""Learns which evaluations of a plan take cached features: a static mask, from measured errors.

One run in full gives the features of every evaluation, and so how far those kept from s (or
forecast from r and s) are from the right ones at t. How much such a distance moves the finished
pictures is measured at some evaluations, by reusing features in that one alone. Errors of several
evaluations add up nearly, so dynamic programming finds the mask with the least sum under a budget
of multiply-accumulates; the pictures of what it found are then measured.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence

import torch

from hasten.core.call import FULL
from hasten.core.errors import UserError, require, require_number, require_whole
from hasten.core.feature_cache import FeatureCache, Scheduled
from hasten.core.lever import levers
from hasten.core.model import Model
from hasten.core.plan import Plan
from hasten.core.program import CACHED
from hasten.core.random_streams import Stream, generator
from hasten.learning.compression.feature_error import Distances, Sweep
from hasten.levers.feature_cache import Deep
from hasten.measuring.macs import network_rows, variant_macs
from hasten.measuring.ode_error import reference_plan
from hasten.sampling import Sampler, build, prepare

POWERS = (1.0, 2.0)  # the errors of stretches may add up as they are, or as their squares
LONGEST = 200  # evaluations


@dataclasses.dataclass(frozen=True, kw_only=True)
class LearnedCacheMask:
    """What was found.

    Attributes:
        plan: the plan with its mask.
        macs: multiply-accumulates of a picture, as a share of those of the plan without a cache.
        ode_error: RMSE of the calibration pictures, from the model's converged solution; for a plan
            that draws noise from those of the plan without a cache.
        n: calibration pictures.
        tried: for each cut its best mask's share and ODE error.
    """

    plan: Plan
    macs: float
    ode_error: float
    n: int
    tried: dict[str, dict[str, float]]


def learn_cache_mask(
    model: Model,
    plan: Plan,
    *,
    budget: float = 0.6,
    cuts: Sequence[str] | None = None,
    n: int = 8,
    seed: int = 0,
    say: Callable[[str], None] = lambda line: None,
) -> LearnedCacheMask:
    """The mask of least ODE error for ``plan`` on ``model`` under a budget.

    Args:
        budget: multiply-accumulates, as a share of those of the plan without a cache.
        cuts: which caches to try, such as "deep(branch=0)"; by default every branch of a U-Net,
            with and without forecast.
        n: calibration pictures, labels in turn.
        say: is told what was found of each cut.

    Raises:
        UserError: the budget is out of range for all cuts, the plan has no Program or caches
            already, or the network cannot be split.
    """
    require_number("budget", budget, 1e-3, 1.0)
    require_whole("n", n, 1, 4096)
    best, tried, lowest = None, {}, math.inf
    for cut in cuts or branches(model):
        bench = Bench(model, plan, cut, n=n, seed=seed)
        lowest = min(lowest, bench.lowest)
        if bench.lowest > budget:
            continue
        mask = bench.best(budget)
        tried[cut] = {"macs": mask.macs, "ode_error": mask.ode_error}
        say(f"{cut}: ODE error {mask.ode_error:.4g} at {mask.macs:.2f} of the multiply-accumulates")
        if best is None or mask.ode_error < best.ode_error:
            best = mask
    if best is None:
        raise UserError(
            f"budget is {budget:g}, but a feature cache takes at least {lowest:.3g} of the plan's "
            "multiply-accumulates here; give more, or take fewer steps."
        )
    return dataclasses.replace(best, tried=tried)


def branches(model: Model) -> list[str]:
    """Every branch of a U-Net, with and without forecast."""
    out: list[str] = []
    while True:
        number = len(out) // 2
        try:
            Deep(branch=number).split(model.net)
        except UserError:
            if out:
                return out
            raise
        out += [f"deep(branch={number})", f"deep(branch={number}, forecast=1)"]


class Bench:
    """A plan with one cut, its calibration pictures, and its run in full."""

    def __init__(self, model: Model, plan: Plan, cut: str, *, n: int = 8, seed: int = 0) -> None:
        caches = [part for part in plan.parts.levers if isinstance(part, FeatureCache)]
        require(not caches, "the plan has a feature cache already; learn without it.")
        part = levers.parse(cut)
        if not isinstance(part, Scheduled):
            raise UserError(
                f"lever {cut!r} is no feature cache on a schedule; there is no mask to learn."
            )
        self.model, self.plan, self.part = model, plan, part
        whole = self._with(dataclasses.replace(part, every=1, mask=None))
        self.net = prepare(model, whole)
        self.sampler = build(model, whole, net=self.net)
        self.units = [count for count, _ in network_rows(self.sampler)]
        count = len(self.units)
        require(
            2 <= count <= LONGEST,
            f"the plan makes {count} evaluations; a mask is learned for 2 to {LONGEST}.",
        )
        costs = variant_macs(self.sampler.resolved)
        assert costs is not None
        self.share = costs[CACHED] / costs[FULL]
        self.lowest = self._macs([1] + [0] * (count - 1))
        rows = [
            torch.randn(model.shape, generator=generator(seed, i, Stream.FEATURE_CACHE))
            for i in range(n)
        ]
        self.noise = torch.stack(rows)
        self.condition = model.labels_in_turn(n)
        self.pictures = self._made(self.sampler)
        self.wanted = self.pictures if plan.stochastic else converged(self)
        self._distances: Distances | None = None

    def best(self, budget: float) -> LearnedCacheMask:
        """The mask whose pictures have the least ODE error, of those found with errors added as
        they are and as squares, and the one with full evaluations at equal distances."""
        total = sum(self.units)
        most = math.floor((budget - self.share) * total / (1 - self.share) + 1e-9)
        most = max(most, self.units[0])
        masks = [least(self.ode_errors(), self.units, most, power) for power in POWERS]
        candidates = [
            self.measured(mask) for mask in dict.fromkeys([*masks, even(self.units, most)])
        ]
        return min(candidates, key=lambda candidate: candidate.ode_error)

    def measured(self, mask: tuple[int, ...]) -> LearnedCacheMask:
        """What ``mask`` costs and gives."""
        plan = self._with(dataclasses.replace(self.part, every=2, mask=mask))
        pictures = self._made(build(self.model, plan, net=self.net))
        ode_error = apart(pictures, self.wanted)
        macs = self._macs(mask)
        return LearnedCacheMask(
            plan=plan, macs=macs, ode_error=ode_error, n=len(pictures), tried={}
        )

    @torch.inference_mode()
    def ode_errors(self) -> Distances:
        """How far the cache moves the pictures, measured once."""
        if self._distances is None:
            sweep = Sweep(self.sampler, self.noise, self.condition)
            moved = functools.partial(apart, self.pictures)
            self._distances = sweep.distances(moved, self.part.forecast)
        return self._distances

    def _with(self, part: Scheduled) -> Plan:
        return self.plan.with_lever(part)

    def _made(self, sampler: Sampler) -> torch.Tensor:
        return sampler.sample(noise=self.noise, condition=self.condition, batch=len(self.noise))

    def _macs(self, mask: Sequence[int]) -> float:
        each = [1.0 if full else self.share for full in mask]
        spent = sum(unit * cost for unit, cost in zip(self.units, each, strict=True))
        return spent / sum(self.units)


def least(
    distances: Distances, units: Sequence[int], most: int, power: float = 1.0
) -> tuple[int, ...]:
    """The mask of least ODE error whose full evaluations cost at most ``most`` units.

    The ODE error of a stretch, from one full evaluation to the next, is the sum of what its
    evaluations add, and the ODE error of a mask the sum of its stretches to ``power``. Dynamic
    programming over (the last two full evaluations, units spent); without forecast the last one
    alone.

    Args:
        units: what a full evaluation costs beyond one that uses the cache.
    """
    count = len(units)
    # The first full evaluation has none before it.
    best: dict[tuple[int, int, int], tuple[float, tuple[int, ...]]] = {}
    best[0, -1, units[0]] = (0.0, (0,))
    done: list[tuple[float, tuple[int, ...]]] = []
    for s in range(count):
        here = [(key, entry) for key, entry in best.items() if key[0] == s]
        for (_, r, spent), (total, keys) in here:
            stretch = 0.0
            for e in range(s + 1, count + 1):
                if e > s + 1:
                    stretch += distances(r, s, e - 1)
                now = total + stretch**power
                if e == count:
                    done.append((now, keys))
                    break
                key = (e, s if distances.forecast else -1, spent + units[e])
                if key[2] <= most and now < best.get(key, (math.inf,))[0]:
                    best[key] = now, (*keys, e)
    chosen = set(min(done)[1])
    return tuple(int(k in chosen) for k in range(count))


def even(units: Sequence[int], most: int) -> tuple[int, ...]:
    """The mask with as many full evaluations as cost ``most`` at equal distances."""
    count = len(units)
    for full in range(count, 1, -1):
        chosen = {k * count // full for k in range(full)}
        if sum(units[k] for k in chosen) <= most:
            return tuple(int(k in chosen) for k in range(count))
    return tuple(int(k == 0) for k in range(count))


def converged(bench: Bench) -> torch.Tensor:
    """The model's converged solution from the bench's noise, in [0, 1]."""
    plan = bench.plan
    reference = reference_plan(plan, engine=plan.engine).model_copy(update={"dtype": plan.dtype})
    sampler = build(bench.model, reference, net=bench.net)
    return sampler.sample(noise=bench.noise, condition=bench.condition, batch=len(bench.noise))


def apart(pictures: torch.Tensor, wanted: torch.Tensor) -> float:
    """Root mean square of a picture's difference from the wanted one, mean over pictures."""
    return float((pictures - wanted).square().flatten(1).mean(1).sqrt().mean())
