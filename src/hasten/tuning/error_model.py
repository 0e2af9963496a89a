"""What the ODE error of a program will be, guessed from the programs that were measured.

The logarithm of the error is taken for a sum of terms (its evaluations, its solver, its grid, the
clip, some of them together, the program itself, the pictures it is measured on), each drawn from a
normal distribution: Bayesian linear regression (Bishop, Pattern Recognition and Machine Learning,
3.3), so that a guess comes with its standard deviation.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np

from hasten.core.plan import Plan
from hasten.tuning.records import Trial

TYPICAL = 8  # evaluations at which the terms without a slope apply
NOISE = 0.05  # standard deviation of the log error of a program on a few pictures


@dataclasses.dataclass(frozen=True)
class Normal:
    """What a kind of term is before anything is measured."""

    mean: float
    deviation: float


PRIOR: Mapping[str, Normal] = {
    "all": Normal(math.log(0.05), 2.0),
    "known good": Normal(-0.4, 0.3),
    "evaluations": Normal(-1.5, 0.7),  # second order or nearly
    "solver": Normal(0.0, 0.4),
    "grid": Normal(0.0, 0.4),
    "clip": Normal(0.0, 0.2),
    "solver, evaluations": Normal(0.0, 0.4),
    "grid, evaluations": Normal(0.0, 0.3),
    "solver, grid": Normal(0.0, 0.3),
    "clip, evaluations": Normal(0.0, 0.2),
    "plan": Normal(0.0, 0.15),
    "pictures": Normal(0.0, 0.2),
}
"""Effects on the log error; of "evaluations", on its slope in log evaluations."""


@dataclasses.dataclass(frozen=True)
class Guess:
    """The log ODE error of a program on all pictures."""

    mean: float
    deviation: float

    def chance_below(self, bar: float) -> float:
        """The probability that the error is below ``bar``."""
        return 0.5 * math.erfc((self.mean - math.log(bar)) / (self.deviation * math.sqrt(2)))


class ErrorModel:
    """The regression on ``trials``, for errors on ``pictures`` of them (what the others were
    measured on may be harder or easier); ``known_good`` are pairs of solver and grid, the best
    first."""

    def __init__(
        self, trials: Sequence[Trial], pictures: int, known_good: Sequence[tuple[str, str]] = ()
    ) -> None:
        self.pictures, self.known_good = pictures, known_good
        known = [trial for trial in trials if trial.ode_error is not None and trial.rmse > 0]
        rows = [
            self._terms(trial.plan, trial.evaluations, trial.ode_error.n if trial.ode_error else 0)
            for trial in known
        ]
        self._names = {
            name: place for place, name in enumerate({k: 0 for row in rows for k in row})
        }
        means = np.array([_prior(name).mean for name in self._names])
        precision = np.array([_prior(name).deviation ** -2.0 for name in self._names])
        inputs = self._matrix(rows)
        errors = np.array([math.log(trial.rmse) for trial in known])
        self._covariance = np.linalg.inv(np.diag(precision) + inputs.T @ inputs / NOISE**2)
        pull = precision * means + inputs.T @ errors / NOISE**2
        self._means = self._covariance @ pull

    def guesses(self, plans: Sequence[tuple[Plan, int]]) -> list[Guess]:
        """What the error of each plan of so many evaluations will be."""
        rows = [self._terms(plan, evaluations, self.pictures) for plan, evaluations in plans]
        inputs = self._matrix(rows)
        means = inputs @ self._means
        variances = np.einsum("ij,jk,ik->i", inputs, self._covariance, inputs, optimize=True)
        guesses = []
        for row, mean, variance in zip(rows, means, variances, strict=True):
            new = [(_prior(name), x) for name, x in row.items() if name not in self._names]
            mean += sum(prior.mean * x for prior, x in new)
            variance += sum((prior.deviation * x) ** 2 for prior, x in new)
            guesses.append(Guess(float(mean), math.sqrt(float(variance))))
        return guesses

    def _matrix(self, rows: Sequence[Mapping[str, float]]) -> np.ndarray:
        """The factors of the known terms (rows, terms)."""
        matrix = np.zeros((len(rows), len(self._names)))
        for place, row in enumerate(rows):
            for name, factor in row.items():
                if name in self._names:
                    matrix[place, self._names[name]] = factor
        return matrix

    def _terms(self, plan: Plan, evaluations: int, pictures: int) -> dict[str, float]:
        """The terms of a plan's log error, by kind and name, and the factor of each."""
        slope = math.log(max(evaluations, 1) / TYPICAL)
        solver, grid = plan.solver or "", (plan.grid or "").split("(")[0]
        rank = self.known_good.index((solver, grid)) if (solver, grid) in self.known_good else None
        return {
            "all": 1.0,
            "known good": 0.0 if rank is None else 1.0 - 0.1 * rank,
            "evaluations": slope,
            f"solver: {solver}": 1.0,
            f"grid: {grid}": 1.0,
            f"clip: {plan.clip}": 1.0,
            f"solver, evaluations: {solver}": slope,
            f"grid, evaluations: {grid}": slope,
            f"clip, evaluations: {plan.clip}": slope,
            f"solver, grid: {solver} {grid}": 1.0,
            f"plan: {plan}": 1.0,
            f"pictures: {pictures}": 1.0,
        }


def _prior(name: str) -> Normal:
    return PRIOR[name.split(":")[0]]
