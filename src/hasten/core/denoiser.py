"""What the network believes: denoisers that answer Calls with x0, and wrappers of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import torch

from hasten.core.call import Answer, Call, Denoiser, State, Weights, answered
from hasten.core.condition import COND, NULL
from hasten.core.engine import Prepared
from hasten.core.errors import UserError
from hasten.core.level import Level
from hasten.core.model import Model
from hasten.core.prediction import Translation
from hasten.core.transfer import sent

ROWS = 1024  # of one network call that answers several Calls


class NetworkDenoiser:
    """x0 by a prepared network of ``model``: the network's output, translated by the model's
    prediction. ``opening`` is the state with which a run begins, where the network keeps one."""

    def __init__(self, model: Model, net: Prepared, opening: State | None = None) -> None:
        self.model, self.net, self.opening = model, net, opening

    def __call__(self, calls: Sequence[Call]) -> list[Answer]:
        return answered(calls, self._answer, ROWS)

    def _answer(self, call: Call) -> Answer:
        if self.opening is not None and call.state is None:
            call = call.changed(states={call.branch: self.opening})
        times = call.times
        if call.raw:
            output, state = self.net.run(call, call.x, times)
            return Answer(x0=output, states=_states(call, state))
        here = self._translation(call)
        seen = (
            call.x if isinstance(here.scale, float) and here.scale == 1.0 else call.x * here.scale
        )
        output, state = self.net.run(call, seen, times)
        variance = None
        _require_shape(output, call.x, 2 if self.model.learned_variance else 1)
        if self.model.learned_variance:
            output, variance = output.chunk(2, dim=1)
        return Answer(x0=_x0(call.x, output, here), variance=variance, states=_states(call, state))

    def _translation(self, call: Call) -> Translation:
        """Of all rows, as numbers where they are at one level, else as columns (n, 1, ...)."""
        level, at = call.level, self.model.prediction.at
        if level is not None:
            return at(level)
        known = {level: at(level) for level in dict.fromkeys(call.levels)}
        rows = [known[level] for level in call.levels]

        def column(values: list[float]) -> torch.Tensor:
            wide = torch.tensor(values, dtype=torch.float32)
            return sent(wide, call.x.device).view(-1, *[1] * (call.x.ndim - 1))

        scale = column([row.scale for row in rows])
        skip, out = column([row.skip for row in rows]), column([row.out for row in rows])
        return Translation(scale, skip, out)  # pyright: ignore[reportArgumentType]


def _require_shape(output: object, x: torch.Tensor, parts: int) -> None:
    """``output`` is as ``x``, with ``parts`` times its channels."""
    n, channels, *rest = x.shape
    got = tuple(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
    want = (n, parts * channels, *rest)
    if got != want:
        variance = " (mean and variance)" if parts == 2 else ""
        raise UserError(
            f"the network answers {got} to latents {tuple(x.shape)}; this model takes "
            f"{want}{variance}. Set shape and learned_variance to what the network has."
        )


def _x0(x: torch.Tensor, output: torch.Tensor, here: Translation) -> torch.Tensor:
    if isinstance(here.skip, torch.Tensor):
        return x * here.skip + output * here.out
    if here.skip == 0:
        return output * here.out
    return (x * here.skip).add_(output, alpha=here.out)


def _states(call: Call, state: State | None) -> dict[str, State]:
    return {} if state is None else {call.branch: state}


class Guided:
    """Guidance: a weighted sum of what the branches of the condition answer, by default the one of
    classifier-free guidance, null + scale * (cond - null) (Ho & Salimans 2207.12598).

    Branches whose weight at a level is 0 are not asked there (guidance on an interval of levels,
    2404.07724). All branches of all calls share network calls. A call that brings weights of its
    own is guided by those, so runs of different guidance can share network calls too.
    """

    def __init__(self, denoiser: Denoiser, weights: Weights) -> None:
        self.denoiser, self.weights = denoiser, weights

    def __call__(self, calls: Sequence[Call]) -> list[Answer]:
        parts = [self._branches(call) for call in calls]
        answers = iter(self.denoiser([part.call for some in parts for part in some]))
        return [
            _combined(call, some, [next(answers) for _ in some])
            for call, some in zip(calls, parts, strict=True)
        ]

    def _branches(self, call: Call) -> list[_Branch]:
        if call.raw:
            return [_Branch(call.of_branch(call.branch), None, 1.0, [1.0])]
        level, weights_at = call.level, call.weights or self.weights
        if level is not None:
            return [
                _Branch(call.of_branch(name), None, weight, [weight])
                for name, weight in weights_at(level).items()
                if weight != 0.0
            ]
        weights = {level: weights_at(level) for level in dict.fromkeys(call.levels)}
        out = []
        for name in dict.fromkeys(name for each in weights.values() for name in each):
            column = [weights[level].get(name, 0.0) for level in call.levels]
            rows = [row for row, weight in enumerate(column) if weight != 0.0]
            if not rows:
                continue
            alone = call.of_branch(name)
            whole = len(rows) == len(call)
            values = [column[row] for row in rows]
            same = values.count(values[0]) == len(values)
            wide = (-1, *[1] * (call.x.ndim - 1))
            weight = values[0] if same else torch.tensor(values).to(call.x).view(wide)
            out.append(
                _Branch(
                    alone if whole else alone.rows(rows), None if whole else rows, weight, values
                )
            )
        return out


@dataclasses.dataclass(frozen=True)
class _Branch:
    """A branch's call, the rows of the whole call that it is about (None for all), its weight, and
    the weights of its rows as numbers (one where all are the same)."""

    call: Call
    rows: list[int] | None
    weight: float | torch.Tensor
    numbers: list[float]


def _combined(call: Call, parts: Sequence[_Branch], answers: Sequence[Answer]) -> Answer:
    states = {name: state for answer in answers for name, state in answer.states.items()}
    if len(parts) == 1 and parts[0].rows is None and parts[0].weight == 1.0:
        return answers[0]
    # Guidance moves the mean; the variance stays the conditional one (as in DiT, 2212.09748).
    variance = next(
        (
            answer.variance
            for part, answer in zip(parts, answers, strict=True)
            if part.call.branch == COND
        ),
        None,
    )
    names = [(part.call.branch, part.rows) for part in parts]
    if names == [(COND, None), (NULL, None)] and all(
        null == 1.0 - cond for cond, null in zip(parts[0].numbers, parts[1].numbers, strict=True)
    ):  # written so, weights that cancel do not cost precision
        x0 = torch.lerp(answers[1].x0, answers[0].x0, parts[0].weight)
        return Answer(x0=x0, variance=variance, states=states)
    total = torch.zeros_like(call.x)
    for part, answer in zip(parts, answers, strict=True):
        if part.rows is None:
            total += answer.x0 * part.weight
        else:
            total[part.rows] += answer.x0 * part.weight
    return Answer(x0=total, variance=variance, states=states)


def classifier_free(scale: float | Callable[[Level], float]) -> Weights:
    """The weights of classifier-free guidance with ``scale``, a number or a function of the level:
    ``scale`` for the branch ``cond`` and 1 - scale for ``null``."""

    def weights(level: Level) -> Mapping[str, float]:
        here = scale(level) if callable(scale) else scale
        return {COND: here} if here == 1.0 else {COND: here, NULL: 1.0 - here}

    return weights


class FunctionDenoiser:
    """A Denoiser from a function ``(x, level) -> x0``, which is called once a call."""

    def __init__(self, function: Callable[[torch.Tensor, Level], torch.Tensor]) -> None:
        self.function = function

    def __call__(self, calls: Sequence[Call]) -> list[Answer]:
        return [Answer(x0=self._x0(call)) for call in calls]

    def _x0(self, call: Call) -> torch.Tensor:
        level = call.level
        if level is not None:
            return self.function(call.x, level)
        rows = zip(call.x.split(1), call.levels, strict=True)
        return torch.cat([self.function(x, level) for x, level in rows])
