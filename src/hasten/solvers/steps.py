"""The few formulas that several solvers share.

``h`` is the gain in half log-SNR of a step; it is infinite on a step from pure noise or to a clean
picture, and every formula here holds there as its limit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from hasten.core.ask import Combine, Denoise, Latent
from hasten.core.level import Level
from hasten.core.program import Walk

FEW_STEPS = 15
"""Below this many steps a multistep solver lowers its order towards the end, as diffusers does."""


def gain(here: Level, there: Level) -> float:
    """h = lambda' - lambda > 0."""
    return there.half_log_snr - here.half_log_snr


def phi(order: int, z: float) -> float:
    """phi_k(z) = sum_n z^n / (n + k)!, the functions of exponential integrators."""
    if abs(z) < 1:
        total, term = 0.0, 1 / math.factorial(order)
        for n in range(1, 20):
            total, term = total + term, term * z / (n + order)
        return total
    value = math.expm1(z) / z
    for k in range(1, order):
        value = (value - 1 / math.factorial(k)) / z
    return value


def exponential_step(x: Latent, x0: Latent, here: Level, there: Level) -> Latent:
    """x' = sigma'/sigma x + alpha' (1 - e^-h) x0: exact while x0 stays the same (DDIM)."""
    forget = -math.expm1(-gain(here, there))
    return (there.sigma / here.sigma) * x + (there.alpha * forget) * x0


def ancestral_step(x: Latent, x0: Latent, here: Level, there: Level) -> Latent:
    """Mean of the posterior q(x' | x, x0) (DDPM, eq. 7, between any two levels)."""
    h = gain(here, there)
    shrink = math.exp(-h) * there.sigma / here.sigma
    return shrink * x + (there.alpha * -math.expm1(-2 * h)) * x0


def ancestral_sigma(here: Level, there: Level) -> float:
    """Standard deviation of the posterior q(x' | x, x0)."""
    return there.sigma * math.sqrt(-math.expm1(-2 * gain(here, there)))


def noise_in(x: Latent, x0: Latent, here: Level) -> Latent:
    """The noise in ``x`` when the clean picture is ``x0``."""
    return (x - here.alpha * x0) / here.sigma


def noise_kept(x: Latent, x0: Latent, here: Level) -> Combine:
    """Asks for :func:`noise_in` as one latent, so that remembering k noises costs k registers."""
    return Combine((x, x0), (1 / here.sigma, -here.alpha / here.sigma))


def usable_order(order: int, index: int, levels: Sequence[Level]) -> int:
    """The order a multistep solver can have on the step from ``levels[index]``.

    Past answers are few at first, the one at pure noise has no log-SNR to interpolate in, and the
    step to a clean picture has no length in log-SNR: it is first order.
    """
    steps, pure = len(levels) - 1, levels[0].alpha == 0
    if levels[index].alpha == 0 or levels[index + 1].sigma == 0:
        return 1
    order = min(order, index + 1 - pure)
    return min(order, steps - index) if steps < FEW_STEPS else order


def heun_step(x: Latent, here: Level, there: Level) -> Walk:
    """Euler's step, corrected by the slope where it ends, in x/alpha against sigma/alpha (EDM,
    algorithm 2); first order from pure noise and to a clean picture."""
    x0 = yield Denoise(x, here)
    step = exponential_step(x, x0, here, there)
    if here.alpha == 0 or there.sigma == 0:
        return step
    slope = noise_in(x, x0, here)
    x0 = yield Denoise(step, there)
    length = there.alpha * (there.ratio - here.ratio)
    return step + (0.5 * length) * (noise_in(step, x0, there) - slope)
