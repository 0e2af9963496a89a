"""A solver's table as a differentiable function of where its levels lie.

The coefficients of any solver follow from its levels; tracing it says what they are. Their
derivatives are taken by central differences of the trace, a few milliseconds a step, so that no
solver has to be written a second time for learning.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from hasten.core.coefficient_matrix import CoefficientMatrix
from hasten.core.errors import UserError
from hasten.core.level import Array, Level
from hasten.core.noise_schedule import NoiseSchedule
from hasten.core.solver import Solver, trace

STEP = 1e-4  # of the central differences, in half log-SNR
NOISIEST = -math.log(80.0)  # stands for a start without signal, which has no log-SNR


@dataclasses.dataclass(frozen=True)
class Table:
    """Times, alphas and sigmas (n,) of the evaluations, and the matrix (n + 1, n + 1) of a
    CoefficientMatrix, as float64 tensors."""

    t: torch.Tensor
    alpha: torch.Tensor
    sigma: torch.Tensor
    matrix: torch.Tensor

    def coefficient_matrix(self, clip: float | None) -> CoefficientMatrix:
        """The numbers as they are; the start lies at the level of the first evaluation."""
        rows = zip(self.t.tolist(), self.alpha.tolist(), self.sigma.tolist(), strict=True)
        levels = tuple(Level(*row) for row in rows)
        return CoefficientMatrix(levels, self.matrix.detach().numpy(), levels[0], clip)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SolverCoefficients:
    """The coefficients of ``solver`` on ``schedule``, in rounds of ``width`` evaluations side by
    side.

    Width 1 is the solver itself. A wider table follows ``width`` chains, each the solver on its own
    levels, and gives every chain the mean of all chains' answers of a round (parallel gradients,
    2507.14797). The start lies at the first level of the first chain; the others begin below it.
    """

    solver: Solver
    schedule: NoiseSchedule

    @property
    def ends(self) -> tuple[float, float]:
        """Half log-SNR of the noisiest and of the cleanest level."""
        top = self.schedule.at(self.schedule.noisy).half_log_snr
        return max(top, NOISIEST) if math.isinf(top) else top, self.schedule.at(
            self.schedule.low
        ).half_log_snr

    def table(self, places: torch.Tensor, time_offsets: torch.Tensor) -> Table:
        """From half log-SNRs (rounds, width), falling in noise from round to round, and offsets to
        those at which the network's times are taken; both float64, both differentiable."""
        shape = places.shape

        def numbers(flat: Array) -> Array:
            return self._numbers(flat.reshape(shape))

        flat = Differences.apply(places.flatten(), numbers)
        n = places.numel()
        t = Differences.apply((places + time_offsets).flatten(), self._times)
        alpha, sigma = flat[:n], flat[n : 2 * n]
        return Table(t, alpha, sigma, flat[2 * n :].reshape(n + 1, n + 1))

    def level(self, half_log_snr: float) -> Level:
        """The level at ``half_log_snr``, clamped to the schedule's ends."""
        top, _ = self.ends
        if half_log_snr <= top + 1e-12:
            return self.schedule.at(self.schedule.noisy)
        return self.schedule.at(
            min(max(self.schedule.position(half_log_snr), self.schedule.low), self.schedule.noisy)
        )

    def _times(self, places: Array) -> Array:
        return np.array([self.level(place).t for place in places])

    def _numbers(self, places: Array) -> Array:
        """alphas, sigmas and the matrix, flat."""
        rounds, width = places.shape
        n = rounds * width
        matrix = np.zeros((n + 1, n + 1))
        levels = [[self.level(place) for place in row] for row in places]
        start = levels[0][0]
        for k in range(width):
            chain = [levels[r][k] for r in range(rounds)]
            whole = (*chain, self.schedule.at(self.schedule.clean))
            own = CoefficientMatrix.of(trace(self.solver, whole)).matrix
            if own.shape != (rounds + 1, rounds + 1):
                raise UserError(
                    f"solver {self.solver.part_name!r} does not make one evaluation a step; learn "
                    "from one "
                    "that does, such as ipndm, dpmpp, unipc or deis."
                )
            begun = chain[0].spread / start.spread
            for r in range(rounds + 1):
                spot, share = (r * width + k, 1.0) if r < rounds else (n, 1 / width)
                matrix[spot, 0] += share * begun * own[r, 0]
                matrix[spot, 1:] += share / width * np.repeat(own[r, 1:], width)
        flat = [level for row in levels for level in row]
        return np.concatenate(
            [[level.alpha for level in flat], [level.sigma for level in flat], matrix.ravel()]
        )


class Differences(torch.autograd.Function):
    """``function`` of a float64 vector, with its Jacobian by central differences."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, function: Callable[[np.ndarray], np.ndarray]
    ) -> torch.Tensor:
        here = x.detach().numpy()
        if ctx.needs_input_grad[0]:
            columns = []
            for i in range(len(here)):
                step = np.zeros_like(here)
                step[i] = STEP
                columns.append((function(here + step) - function(here - step)) / (2 * STEP))
            ctx.jacobian = torch.from_numpy(np.stack(columns))
        return torch.from_numpy(function(here))

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None]:  # type: ignore[override]
        return ctx.jacobian @ grads[0], None
