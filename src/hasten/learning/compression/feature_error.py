"""How far the features of a network move from one evaluation of a plan to the next, and what that
does to the pictures."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import cast

import numpy as np
import torch

from hasten.core.ask import Denoise, DenoiseWithVariance
from hasten.core.call import State
from hasten.core.condition import COND, Condition
from hasten.core.executor import Registers
from hasten.core.feature_cache import Kept
from hasten.core.program import CACHED
from hasten.core.session import Session
from hasten.core.stepping import Answers, Pending, follow, stepping
from hasten.sampling import Sampler

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

    def __init__(self, sampler: Sampler, noise: torch.Tensor, condition: object) -> None:
        model, program = sampler.model, sampler.program
        assert program is not None
        self.sampler, self.program = sampler, program
        self.condition = model.condition(len(noise), condition).to(model.device)
        calls = [i for i, row in enumerate(program.rows) if row.ask.calls]
        self.stops = [*calls, len(program.rows)]
        x = sampler.begin(noise.to(model.device).float(), sampler.levels[0], self.condition)
        self.fresh = [torch.randn_like(x) for _ in range(program.draws)]
        self.before: list[Registers] = []  # the registers before each evaluation
        self.states: list[Mapping[str, State]] = []  # what the run keeps after it
        registers, states = self._run({"x": x}, range(self.stops[0]))
        for start, stop in zip(self.stops, self.stops[1:], strict=False):
            self.before.append(registers)
            registers, states = self._run(registers, range(start, stop), states)
            self.states.append(states)

    def distances(self, apart: Callable[[torch.Tensor], float], forecast: int) -> Distances:
        """The measured distances; ``apart`` is the ODE error of pictures."""
        conditional = [cast(Kept, states[COND]) for states in self.states]
        rows = [
            torch.cat([feature.flatten() for feature in state.features]) for state in conditional
        ]
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
        """ODE error for a unit of distance: measured at the probes, interpolated between them."""
        count = len(self.states)
        probes = sorted(set(np.linspace(1, count - 1, PROBES).round().astype(int).tolist()))
        pairs = zip(probes, self._probed(probes), strict=True)
        moved = [apart(pictures) / max(plain.apart(-1, t - 1, t), 1e-12) for t, pictures in pairs]
        logs = np.log(np.maximum(moved, 1e-12))
        return np.exp(np.interp(np.arange(count), probes, logs))

    def _probed(self, probes: list[int]) -> list[torch.Tensor]:
        """For each probe the pictures where it alone reuses the features of the one before."""
        walking: list[Registers] = []
        for t in range(1, len(self.states)):
            rows = range(self.stops[t], self.stops[t + 1])
            if walking:
                walking = self._side_by_side(walking, rows)
            if t in probes:
                registers, _ = self._run(self.before[t], rows, self.states[t - 1], cached=True)
                walking.append(registers)
        decode, last = self.sampler.model.codec.decode, self.program.output
        return [decode(registers[last]).cpu() for registers in walking]

    def _side_by_side(self, several: list[Registers], rows: range) -> list[Registers]:
        """Several runs through the same rows in one batch."""
        many = len(several)
        together = {
            name: torch.cat([registers[name] for registers in several]) for name in several[0]
        }
        done, _ = self._run(together, rows, times=many)
        parts = {name: value.chunk(many) for name, value in done.items()}
        return [{name: part[i] for name, part in parts.items()} for i in range(many)]

    def _run(
        self,
        registers: Registers,
        rows: range,
        states: Mapping[str, State] | None = None,
        cached: bool = False,
        times: int = 1,
    ) -> tuple[Registers, Mapping[str, State]]:
        """The registers and the state after ``rows``; those given stay as they are. The noise is
        that of the run in full, ``times`` over."""
        drawn = sum(row.ask.op == "noise" for row in self.program.rows[: rows.start])
        fresh = iter(self.fresh[drawn:])
        session = Session(
            self.sampler.denoiser,
            lambda *_: torch.cat([next(fresh)] * times),
            Condition.cat([self.condition] * times),
        ).resumed(states or {})

        def answer(pending: tuple[Pending, ...]) -> list[Answers]:
            (row,) = pending
            if cached and isinstance(row.ask, Denoise | DenoiseWithVariance):
                ask = dataclasses.replace(row.ask, variant=CACHED)
                row = dataclasses.replace(row, ask=ask)
            return session.answer((row,))

        after = dict(registers)
        follow(stepping(self.program, after, rows=rows), answer)
        session.check()
        return after, session.states
