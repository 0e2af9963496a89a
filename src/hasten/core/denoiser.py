"""What the network believes: ``denoiser(x, level, cond) -> x0``, and wrappers of that."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch

from hasten.core.engine import Call
from hasten.core.errors import UserError
from hasten.core.level import Level
from hasten.core.model import Model


class Denoiser(Protocol):
    """x (n, c, h, w) at ``level``, labels (n,) or None; returns x0 (n, c, h, w), float32."""

    def __call__(self, x: torch.Tensor, level: Level, cond: Any = None) -> torch.Tensor: ...


class Translated:
    """The answer of ``net``, a prepared network of ``model``, as x0 by the model's prediction.

    Every question takes a ``net`` to ask in its place: a run that reuses features has its own.
    """

    def __init__(self, model: Model, net: Call) -> None:
        self.model, self.net = model, net

    def raw(
        self, x: torch.Tensor, t: float, cond: Any = None, net: Call | None = None
    ) -> torch.Tensor:
        """The network's own answer in float32 (2c channels where it learned a variance)."""
        times = torch.full((len(x),), t, dtype=torch.float32, device=x.device)
        return (net or self.net)(x, times, cond)

    def with_variance(
        self, x: torch.Tensor, level: Level, cond: Any = None, net: Call | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """x0, and the variance in [-1, 1] that the network learned."""
        if not self.model.learned_variance:
            raise UserError(
                f"model {self.model.name!r} did not learn a variance; use ddpm(variance='small')."
            )
        x0, variance = self._x0(x, level, cond, net)
        assert variance is not None
        return x0, variance

    def __call__(
        self, x: torch.Tensor, level: Level, cond: Any = None, net: Call | None = None
    ) -> torch.Tensor:
        return self._x0(x, level, cond, net)[0]

    def many(self, x: torch.Tensor, levels: Sequence[Level], cond: Any = None) -> torch.Tensor:
        """x0 of several latents in one network call: ``x`` (k n, c, h, w) holds n pictures at each
        of the k ``levels`` in turn, and ``cond`` is (k n,) or None."""
        here = [self.model.prediction.at(level) for level in levels]
        n = len(x) // len(levels)

        def column(values: Sequence[float]) -> torch.Tensor:
            each = torch.tensor(values, dtype=torch.float32).repeat_interleave(n)
            return each.to(x.device, non_blocking=True).view(-1, *[1] * (x.ndim - 1))

        scale = column([one.scale for one in here])
        answer = self.net(x * scale, column([level.t for level in levels]).flatten(), cond)
        if self.model.learned_variance:
            answer = answer.chunk(2, dim=1)[0]
        return x * column([one.skip for one in here]) + answer * column([one.out for one in here])

    def _x0(
        self, x: torch.Tensor, level: Level, cond: Any, net: Call | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        here, variance = self.model.prediction.at(level), None
        answer = self.raw(x if here.scale == 1.0 else x * here.scale, level.t, cond, net)
        if self.model.learned_variance:
            answer, variance = answer.chunk(2, dim=1)
        if here.skip == 0:
            return answer * here.out, variance
        return (x * here.skip).add_(answer, alpha=here.out), variance


class Guided:
    """Classifier-free guidance (Ho & Salimans 2207.12598): null + scale * (cond - null), one call
    of twice the batch.

    ``scale`` is a number, or a function of the level; where it is 1 the null branch is skipped
    (guidance on an interval of levels, 2404.07724).
    """

    def __init__(
        self, denoiser: Translated, scale: float | Callable[[Level], float], null_label: int
    ) -> None:
        self.denoiser, self.scale, self.null_label = denoiser, scale, null_label

    def at(self, level: Level) -> float:
        """The scale at ``level``."""
        return self.scale(level) if callable(self.scale) else self.scale

    def raw(
        self, x: torch.Tensor, t: float, cond: Any = None, net: Call | None = None
    ) -> torch.Tensor:
        return self.denoiser.raw(x, t, cond, net)

    def __call__(
        self, x: torch.Tensor, level: Level, cond: Any = None, net: Call | None = None
    ) -> torch.Tensor:
        scale = self.at(level)
        if scale == 1.0:
            return self.denoiser(x, level, cond, net)
        labels = torch.cat([cond, torch.full_like(cond, self.null_label)])
        wanted, null = self.denoiser(torch.cat([x, x]), level, labels, net).chunk(2)
        return torch.lerp(null, wanted, scale)

    def many(self, x: torch.Tensor, levels: Sequence[Level], cond: Any = None) -> torch.Tensor:
        """:meth:`Translated.many`, guided."""
        scales = [self.at(level) for level in levels]
        n, inside = len(x) // len(levels), [i for i, scale in enumerate(scales) if scale != 1.0]
        latents, labels = list(x.split(n)), list(cond.split(n))
        latents += [latents[i] for i in inside]
        labels += [torch.full_like(labels[i], self.null_label) for i in inside]
        at = [*levels, *(levels[i] for i in inside)]
        found = list(self.denoiser.many(torch.cat(latents), at, torch.cat(labels)).split(n))
        for i, null in zip(inside, found[len(levels) :], strict=True):
            found[i] = torch.lerp(null, found[i], scales[i])
        return torch.cat(found[: len(levels)])

    def with_variance(
        self, x: torch.Tensor, level: Level, cond: Any = None, net: Call | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        raise UserError("guidance and a learned variance exclude each other; set guidance to 1.")
