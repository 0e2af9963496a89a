"""The reverse SDE in adaptive steps (Jolicoeur-Martineau et al. 2105.14080)."""

from __future__ import annotations

import dataclasses

from hasten.core.ask import NoiseOf
from hasten.core.errors import require_number
from hasten.core.level import Level
from hasten.core.linear import Linear
from hasten.core.solver import solvers
from hasten.solvers.adaptive import Adaptive, Attempt, Trials, combined
from hasten.solvers.steps import ancestral_sigma, ancestral_step


@solvers.add("adaptive-sde")
@dataclasses.dataclass(frozen=True, kw_only=True)
class AdaptiveSDE(Adaptive):
    """Algorithm 1: a first step, a second with x0 as answered where the first ended and with the
    same noise, and the mean of the two to go on from (extrapolation). Both steps are those of the
    ancestral sampler, which is exact while x0 stays the same, in place of Euler-Maruyama's.

    A step that is tried again keeps its noise, so that noise is never chosen by whether a step
    passed; the noise of a picture's k-th step is its own k-th draw. ``rtol`` and ``atol`` (their
    eps_rel and eps_abs) are for latents divided by the spread of their level, and ``exponent`` is
    their r. Two evaluations a step, one less when it is tried again. No step is longer than 1 in
    half log-SNR: one that passes over all levels where noise turns into signal would end at a
    picture too smooth, about which both solutions agree.
    """

    title = "adaptive SDE solver"

    stochastic = True
    longest = 1.0
    rtol: float = 0.05
    atol: float = 0.0078
    exponent: float = 0.9

    def __post_init__(self) -> None:
        self.check_tolerances()
        require_number("solver option exponent", self.exponent, 0.5, 1.0)

    def frozen(self) -> str:
        return "dpmpp-sde(order=2)"

    def inner(self) -> int:
        return 1

    @property
    def power(self) -> float:
        return self.exponent

    def attempt(self, now: Trials) -> Attempt:
        if now.fresh:
            now.learn_("a", (yield now.ask_fresh()))
            now.learn_("z", (yield NoiseOf(now.fresh_rows)))
        values = {"x": now.x, **now.known}
        ends = list(zip(now.here, now.there, strict=True))
        low = combined([_step({"a": 1.0}, *pair) for pair in ends], values)
        values["b"] = yield now.ask(low, now.there)
        return low, combined([_step({"a": 0.5, "b": 0.5}, *pair) for pair in ends], values)


def _step(x0: dict[str, float], here: Level, there: Level) -> Linear:
    x, noise = Linear({"x": 1.0}), Linear({"z": 1.0})
    return ancestral_step(x, Linear(x0), here, there) + ancestral_sigma(here, there) * noise
