"""How far the features of a network move from one evaluation of a plan to the next, and what that
does to the pictures."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from hasten.core.feature_cache import Features, Split
from hasten.executors.sequential import Answers
from hasten.sampling import Sampler

State = dict[str, torch.Tensor]
PROBES = 12  # evaluations at which the effect on the pictures is measured


@dataclasses.dataclass(frozen=True, kw_only=True)
class Distances:
    """``distances(r, s, t)``: what evaluation t adds to the ODE error of the pictures where it
    reuses the features of s, or those forecast from r and s; r is -1 where there is no earlier one.

    Attributes:
        products: (k, k), the features' inner products between evaluations.
        times: (k,), the times the network was told.
        weights: (k,), ODE error of the pictures for a unit of distance between features.
    """

    products: np.ndarray
    times: np.ndarray
    weights: np.ndarray
    forecast: int = 0

    def __call__(self, r: int, s: int, t: int) -> float:
        return float(self.weights[t]) * self.apart(r, s, t)

    def apart(self, r: int, s: int, t: int) -> float:
        """The distance between the features at t and those used in their place."""
        places, by = [t, s], [1.0, -1.0]
        gap = self.times[s] - self.times[r] if r >= 0 else 0.0
        if self.forecast and gap != 0:
            share = (self.times[t] - self.times[s]) / gap
            places, by = [t, s, r], [1.0, -1.0 - share, share]
        form = np.asarray(by) @ self.products[np.ix_(places, places)] @ np.asarray(by)
        return math.sqrt(max(float(form), 0.0))


class Sweep:
    """One run in full, cut open before every evaluation."""

    def __init__(self, sampler: Sampler, noise: torch.Tensor, condition: Any) -> None:
        model, program, reuse = sampler.model, sampler.program, sampler.plan.reusing
        assert program is not None
        assert reuse is not None
        assert isinstance(sampler.net, Split)
        labels = model.conditions(len(noise), condition)
        self.sampler, self.program, self.n = sampler, program, len(noise)
        self.condition = None if labels is None else labels.to(model.device)
        calls = [i for i, row in enumerate(program.rows) if row.ask.calls]
        self.stops = [*calls, len(program.rows)]
        x = sampler.begin(noise.to(model.device).float(), sampler.levels[0], self.condition)
        self.fresh = [torch.randn_like(x) for _ in range(program.draws)]
        features = reuse.open(sampler.net)
        self.states: list[State] = []
        self.kept: list[Features] = []
        state = self._run({"x": x}, 0, self.stops[0])
        for start, stop in zip(self.stops, self.stops[1:], strict=False):
            self.states.append(state)
            state = self._run(state, start, stop, features)
            self.kept.append(copy.copy(features))

    def distances(self, apart: Callable[[torch.Tensor], float], forecast: int) -> Distances:
        """The measured distances; ``apart`` is the ODE error of pictures."""
        rows = [torch.cat([one[: self.n].flatten() for one in kept.kept]) for kept in self.kept]
        features = torch.stack(rows).double().cpu().numpy()
        features -= features.mean(0)  # inner products of what changes alone
        plain = Distances(
            products=features @ features.T,
            times=np.asarray([level.t for level in self.program.levels]),
            weights=np.ones(len(rows)),
        )
        weights = self._weights(plain, apart)
        return dataclasses.replace(plain, weights=weights, forecast=forecast)

    def _weights(self, plain: Distances, apart: Callable[[torch.Tensor], float]) -> np.ndarray:
        """Drift for a unit of distance: measured at the probes, interpolated between them."""
        count = len(self.kept)
        probes = sorted(set(np.linspace(1, count - 1, PROBES).round().astype(int).tolist()))
        found = zip(probes, self._probed(probes), strict=True)
        moved = [apart(pictures) / max(plain.apart(-1, t - 1, t), 1e-12) for t, pictures in found]
        logs = np.log(np.maximum(moved, 1e-12))
        return np.exp(np.interp(np.arange(count), probes, logs))

    def _probed(self, probes: list[int]) -> list[torch.Tensor]:
        """For each probe the pictures where it alone reuses the features of the one before."""
        walking: list[State] = []
        for t in range(1, len(self.kept)):
            first, stop = self.stops[t], self.stops[t + 1]
            if walking:
                walking = self._side_by_side(walking, first, stop)
            if t in probes:
                state = self._run(self.states[t], first, stop, self.kept[t - 1], part=True)
                walking.append(state)
        decode, last = self.sampler.model.codec.decode, self.program.output
        return [decode(state[last]).cpu() for state in walking]

    def _side_by_side(self, states: list[State], first: int, stop: int) -> list[State]:
        """Several states through the same rows in one batch."""
        many = len(states)
        together = {name: torch.cat([one[name] for one in states]) for name in states[0]}
        done = self._run(together, first, stop, times=many)
        parts = {name: value.chunk(many) for name, value in done.items()}
        return [{name: part[i] for name, part in parts.items()} for i in range(many)]

    def _run(
        self,
        state: State,
        first: int,
        stop: int,
        features: Features | None = None,
        part: bool = False,
        times: int = 1,
    ) -> State:
        """The registers after rows ``first`` to ``stop``; ``state`` stays as it is. The noise is
        that of the run in full, ``times`` over."""
        drawn = sum(row.ask.op == "noise" for row in self.program.rows[:first])
        fresh = iter(self.fresh[drawn:])
        backend = Answers(
            self.sampler.denoiser,
            lambda: torch.cat([next(fresh)] * times),
            None if self.condition is None else self.condition.repeat(times),
            keep=None if features is None else lambda: features,
        )
        who = backend.reusing() if part else backend
        values = dict(state)
        for number in range(first, stop):
            row = self.program.rows[number]
            given = [values[name] for name in row.ask.reads()]
            values.update(zip(row.out, row.ask.answer(who, *given), strict=True))
            for name in self.program.frees[number]:
                del values[name]
        backend.check()
        return values
