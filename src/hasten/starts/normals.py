"""Normal distributions of latents, each of low rank beside an even rest, and a mixture of them."""

from __future__ import annotations

import dataclasses
import functools
import math

import torch

from hasten.core.condition import Condition
from hasten.core.errors import require
from hasten.core.level import Level
from hasten.core.model import Model
from hasten.starts.files import FIELD, Tensors

NAMES = ("mean", "axes", "variances", "rest", "weight", "label")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Normals:
    """``count`` normal distributions of latents of ``d`` numbers.

    The covariance of each is ``axes^T diag(variances) axes + rest (1 - axes^T axes)``.

    Attributes:
        mean (count, d), axes (count, k, d) with orthonormal rows, variances (count, k).
        rest (count,): the variance in every direction that is no axis.
        weight (count,): the share of pictures it stands for.
        label (count,): whose pictures; -1 for those of every label.
    """

    mean: torch.Tensor
    axes: torch.Tensor
    variances: torch.Tensor
    rest: torch.Tensor
    weight: torch.Tensor
    label: torch.Tensor

    @staticmethod
    def of(tensors: Tensors, model: Model) -> Normals:
        """From the tensors of a file, on the device of ``model``.

        Raises:
            UserError: they are not those of normal distributions of the model's latents.
        """
        loaded = {name: tensors[name].to(model.device) for name in NAMES}
        axes, d = loaded["axes"], math.prod(model.shape)
        count, rank = axes.shape[:2] if axes.ndim == 3 else (0, 0)
        shapes = {"mean": (count, d), "axes": (count, rank, d), "variances": (count, rank)}
        alike = all(loaded[name].shape == shapes.get(name, (count,)) for name in NAMES)
        sound = alike and count > 0 and bool((loaded["variances"] > 0).all())
        sound = sound and bool((loaded["rest"] >= 0).all()) and bool((loaded["weight"] > 0).all())
        require(sound, f"{FIELD} holds no normal distributions of {d} numbers; learn it again.")
        return Normals(**{**loaded, "label": loaded["label"].long()})

    def tensors(self) -> Tensors:
        """What a file holds of them: axes in half precision, which turns them by less than 1e-3."""
        tensors = {name: getattr(self, name).float() for name in NAMES}
        return {**tensors, "axes": self.axes.half()}

    def flow(self, x: torch.Tensor, which: torch.Tensor, first: Level, last: Level) -> torch.Tensor:
        """Where the probability flow of distribution ``which`` (n,) brings ``x`` (n, d) from level
        ``first`` to ``last``: exact, since along every axis of a normal distribution the flow keeps
        ``(x - alpha mean) / (alpha^2 variance + sigma^2)^(1/2)``."""
        mean = self.mean[which]
        gain = _deviation(self.variances, last) / _deviation(self.variances, first)
        rest = (_deviation(self.rest, last) / _deviation(self.rest, first))[which, None]
        apart, axes = x - first.alpha * mean, self.axes[which]
        along = torch.bmm(axes, apart[:, :, None])
        bent = torch.bmm(along.transpose(1, 2) * (gain[which] - rest)[:, None], axes)[:, 0]
        return last.alpha * mean + rest * apart + bent

    def some(self, chosen: torch.Tensor) -> Normals:
        """The distributions ``chosen`` (k,) alone."""
        return Normals(**{name: getattr(self, name)[chosen] for name in NAMES})

    @functools.cached_property
    def _offset(self) -> torch.Tensor:
        """The means along their own axes (count, k)."""
        return torch.einsum("ckd,cd->ck", self.axes, self.mean)

    def denoise(self, x: torch.Tensor, level: Level, chances: torch.Tensor) -> torch.Tensor:
        """The mean of x0 given ``x`` (n, d) at ``level``, when a picture is of each distribution
        with the log-probabilities ``chances`` (n, count)."""
        power, even = (_deviation(value, level).square() for value in (self.variances, self.rest))
        count, rank, d = self.axes.shape
        flat = self.axes.reshape(count * rank, d)
        along = (x @ flat.T).view(-1, count, rank) - level.alpha * self._offset
        far = x.square().sum(1, keepdim=True) - 2 * level.alpha * x @ self.mean.T
        far = far + level.alpha**2 * self.mean.square().sum(1)
        weighed = (along.square() * (1 / power - 1 / even[:, None])).sum(2) + far / even
        volume = power.log().sum(1) + (d - rank) * even.log()
        share = (chances - 0.5 * (weighed + volume)).softmax(1)
        rest = level.alpha * self.rest / even
        gain = level.alpha * self.variances / power - rest[:, None]
        bent = ((share[:, :, None] * gain * along).flatten(1)) @ flat
        return (
            share @ (self.mean * (1 - level.alpha * rest)[:, None])
            + (share @ rest)[:, None] * x
            + bent
        )


class Drawn(torch.nn.Module):
    """A distribution for each picture, and where its flow brings noise from ``first`` to ``last``.

    Args:
        shares: (rows, count) of each distribution, a row a label and one of all; ``null`` is the
            label that stands for the last.
    """

    def __init__(
        self, normals: Normals, shares: torch.Tensor, null: int | None, first: Level, last: Level
    ) -> None:
        super().__init__()
        self.normals, self.first, self.last, self.null = normals, first, last, null
        count = shares.shape[1]
        final = count - 1 - (shares > 0).flip(1).int().argmax(1)
        reached = (shares / shares.sum(1, keepdim=True)).cumsum(1)
        ended = torch.arange(count, device=shares.device) >= final[:, None]
        self.reached = torch.where(ended, torch.inf, reached)

    def forward(
        self, noise: torch.Tensor, draw: torch.Tensor, label: torch.Tensor | Condition | None = None
    ) -> torch.Tensor:
        """x (n, c, h, w) at ``last`` from standard normal noise and draws (n,) from 0 to 1."""
        if isinstance(label, Condition):
            label = label.labels
        row = rows_of(label, self.null, torch.full_like(draw, len(self.reached) - 1).long())
        which = (self.reached[row] <= draw[:, None]).sum(1)
        x = noise.flatten(1) * self.first.spread
        return self.normals.flow(x, which, self.first, self.last).view(noise.shape)


def rows_of(label: torch.Tensor | None, null: int | None, every: torch.Tensor) -> torch.Tensor:
    """The row (n,) of each picture's label: ``every`` (n,) where it has none."""
    if label is None:
        return every
    return label if null is None else torch.where(label == null, every, label)


def _deviation(variance: torch.Tensor, level: Level) -> torch.Tensor:
    return (level.alpha**2 * variance + level.sigma**2).sqrt()
