"""ODE error: how far a plan's pictures are from the model's own converged solution.

Same start noise, no data needed. Every deterministic solver approximates one probability-flow ODE
(Song et al. 2011.13456, eq. 13), so its solution with many evaluations is what all of them aim at.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch

from hasten.core.engine import Prepared
from hasten.core.errors import NonFiniteError, UserError, require_whole
from hasten.core.model import Model
from hasten.core.plan import Plan
from hasten.core.random_streams import Stream, generator
from hasten.core.report import OdeError
from hasten.measuring.features import FeatureNet
from hasten.measuring.interval import mean_interval
from hasten.sampling import build

REFERENCE = Plan(solver="dpmpp(order=3)", grid="log-snr", steps=150)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reference:
    """The converged pictures of ``n`` starts, to hold plans against.

    ``pictures`` (n, c, h, w) in [0, 1] and ``noise`` (n, *model.shape); ``plan`` made them.
    """

    model: Model
    plan: Plan
    noise: torch.Tensor
    condition: Sequence[int] | None
    pictures: torch.Tensor
    features: FeatureNet | None = None

    def first(self, n: int) -> Reference:
        """The first ``n`` starts only, for cheap questions."""
        condition = self.condition if self.condition is None else self.condition[:n]
        small = {"noise": self.noise[:n], "pictures": self.pictures[:n], "condition": condition}
        return dataclasses.replace(self, **small)

    def ode_error(
        self, plan: Plan, net: Prepared | None = None, batch: int = 64
    ) -> OdeError | None:
        """The ODE error of ``plan``, run by ``net`` where it is prepared already, ``batch``
        pictures at a time; None for a plan that draws noise on the way."""
        if plan.stochastic:
            return None
        pictures = self._pictures(plan, net, batch)
        errors = self._errors(pictures)
        mean, low, high = mean_interval(errors)
        distance = None
        if self.features is not None:
            distance = self.features.distance(pictures, self.pictures)
        return OdeError(
            rmse=mean,
            low=max(0.0, low),
            high=high,
            n=len(errors),
            reference=str(self.plan),
            features=distance,
        )

    def errors(self, plan: Plan, net: Prepared | None = None, batch: int = 64) -> torch.Tensor:
        """The ODE error of each picture (n,) of a deterministic ``plan``, as :meth:`ode_error`
        takes their mean."""
        return self._errors(self._pictures(plan, net, batch))

    def _pictures(self, plan: Plan, net: Prepared | None, batch: int) -> torch.Tensor:
        sampler = build(self.model, plan, net=net)
        return sampler.sample(noise=self.noise, condition=self.condition, batch=batch)

    def _errors(self, pictures: torch.Tensor) -> torch.Tensor:
        return (pictures - self.pictures).square().flatten(1).mean(1).sqrt().double()


def reference_plan(plan: Plan | None = None, *, engine: str = "eager") -> Plan:
    """The plan that counts as converged for ``plan``: guided as it is, wherever it is."""
    guided = ("guidance", "guidance_interval")
    changes = {} if plan is None else {name: getattr(plan, name) for name in guided}
    return REFERENCE.model_copy(update={**changes, "engine": engine})


def reference(
    model: Model,
    n: int = 64,
    *,
    plan: Plan = REFERENCE,
    seed: int = 0,
    first: int = 0,
    net: Prepared | None = None,
    batch: int = 64,
) -> Reference:
    """The converged solution of ``n`` starts of ``model``; labels in turn where it has labels.

    Args:
        first: the number of the first sample: a sample's noise depends on (seed, number).
        plan: the plan that counts as converged, see :func:`reference_plan`.
        net: its prepared network, to share it.
        batch: pictures at a time.

    Raises:
        UserError: the model's ODE cannot be solved from pure noise (an epsilon network whose
            schedule ends without signal).
    """
    require_whole("n", n, 1, 100_000)
    shape = model.shape
    numbers = range(first, first + n)
    rows = [torch.randn(shape, generator=generator(seed, i, Stream.ODE_ERROR)) for i in numbers]
    noise = torch.stack(rows)
    condition = model.labels_in_turn(n, first)
    try:
        pictures = build(model, plan, net=net).sample(noise=noise, condition=condition, batch=batch)
    except NonFiniteError:
        raise
    except UserError as error:
        raise UserError(f"the reference solution cannot be made: {error}") from error
    features = FeatureNet.for_model(model)
    return Reference(
        model=model,
        plan=plan,
        noise=noise,
        condition=condition,
        pictures=pictures,
        features=features,
    )
