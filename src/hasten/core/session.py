"""A Session: one run's answers, from a denoiser and a source of noise.

It knows the conditions that are asked about, keeps the run's state, and watches for values that are
not finite. Several sessions of one denoiser can be answered together (:func:`answer_together`).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence

import torch

from hasten.core.ask import (
    MAIN,
    Ask,
    Denoise,
    DenoiseAt,
    DenoiseWithVariance,
    Latent,
    Network,
    Noise,
    NoiseOf,
)
from hasten.core.call import FULL, Answer, Call, Denoiser, State, Weights, state_rows
from hasten.core.condition import COND, Condition
from hasten.core.earlier import Earlier, Store
from hasten.core.errors import NonFiniteError, UserError
from hasten.core.level import Level
from hasten.core.program import Walk
from hasten.core.stepping import Answers, Pending

Fresh = Callable[..., torch.Tensor]
"""``fresh()``: the run's next noise (n, ...); ``fresh(rows)``: that of some of its pictures."""


class Session:
    """Answers the asks of one run.

    The check for values that are not finite stays on the device: one sum a call, read once by
    :meth:`check`, so the loop never waits for the device.

    Args:
        denoiser: answers evaluations.
        fresh: the noise of the run.
        conditions: one, or several by the names that evaluations ask about.
        in_order: evaluations change the run's state, so they are answered one after another.
        weights: of the branches of conditions in this run, where their guidance is not the
            denoiser's: the same for all, or by the names of conditions.
        kept: what the runs of its driver keep for each other, see :mod:`hasten.core.earlier`.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        fresh: Fresh,
        conditions: Condition | Mapping[str, Condition] | None = None,
        in_order: bool = False,
        weights: Weights | Mapping[str, Weights] | None = None,
        kept: Store | None = None,
    ) -> None:
        named = conditions if isinstance(conditions, Mapping) else {MAIN: conditions}
        self.denoiser, self.fresh, self.in_order = denoiser, fresh, in_order
        every = dict.fromkeys(named, weights) if callable(weights) else weights
        self.weights: Mapping[str, Weights | None] = every or {}
        self._conditions = {
            name: condition for name, condition in named.items() if condition is not None
        }
        self._states: dict[str, Mapping[str, State]] = {}
        self._kept = kept
        self._rows: Sequence[int] | None = None  # of the batch, where it is about some of them
        self._sums: list[tuple[float, torch.Tensor]] = []
        self._evaluation = 0

    def answer(self, pending: Sequence[Pending]) -> list[Answers]:
        """The answers of rows that wait."""
        if self.in_order and len(pending) > 1:
            return [answer for row in pending for answer in self.answer((row,))]
        return answer_together([(self, pending)])[0]

    def denoise(self, x: torch.Tensor, level: Level) -> torch.Tensor:
        """x0 of ``x`` (n, ...) at ``level``."""
        return self.denoise_many([x], [Denoise("x", level)])[0]

    def denoise_many(self, xs: Sequence[torch.Tensor], asks: Sequence[Ask]) -> list[torch.Tensor]:
        """x0 of several latents, asked together: each at the level, by the variant of the network
        and about the condition that its ask names."""
        pending = [
            Pending(number, ask, (x,)) for number, (x, ask) in enumerate(zip(xs, asks, strict=True))
        ]
        return [answers[0] for answers in self.answer(pending)]

    def rows(self, index: Sequence[int]) -> Session:
        """The same run, asked about the pictures ``index`` of the batch alone from here on."""
        other, chosen = copy.copy(self), list(index)
        places = torch.as_tensor(chosen, dtype=torch.long)
        other._conditions = {
            name: condition.rows(places) for name, condition in self._conditions.items()
        }
        other._states = {name: state_rows(states, places) for name, states in self._states.items()}
        other._rows = chosen if self._rows is None else [self._rows[row] for row in chosen]
        other.fresh = lambda rows=None: self.fresh(
            chosen if rows is None else [chosen[row] for row in rows]
        )
        return other

    @property
    def states(self) -> Mapping[str, State]:
        """What the run keeps of the main condition, by branch."""
        return self._states.get(MAIN, {})

    def resumed(self, states: Mapping[str, State]) -> Session:
        """The same run with other ``states``, which another run kept."""
        other = copy.copy(self)
        other._states = {**self._states, MAIN: states}
        return other

    def answered_by(self, denoiser: Denoiser) -> Session:
        """The same run from here on, its evaluations answered by another denoiser."""
        other = copy.copy(self)
        other.denoiser, other._states = denoiser, dict(self._states)
        return other

    def call(self, ask: Ask, values: tuple[torch.Tensor, ...], before: int = 0) -> Call:
        """The Call that ``ask`` is, with its latents' tensors; ``before``: how many calls are made
        together with it, before it."""
        (x,) = values
        name, raw, branch, variant = getattr(ask, "condition", MAIN), False, COND, FULL
        weights = self.weights.get(name)
        if isinstance(ask, DenoiseAt):
            levels = ask.levels
            condition = self._condition(name, len(x), ask.rows)
            return Call(x=x, levels=levels, condition=condition, weights=weights)
        if isinstance(ask, Network):
            level, raw, branch = Level(ask.t, 1.0, 0.0), True, ask.branch
            variant = ask.variant
        else:
            assert isinstance(ask, (Denoise, DenoiseWithVariance))
            level, variant = ask.level, ask.variant
        condition, evaluation = self._condition(name, len(x)), self._evaluation + before
        return Call(
            x=x,
            levels=(level,) * len(x),
            condition=condition,
            evaluation=evaluation,
            variant=variant,
            branch=branch,
            states=self._states_at(name, condition, evaluation),
            raw=raw,
            weights=weights,
        )

    def _states_at(self, name: str, condition: Condition, evaluation: int) -> Mapping[str, State]:
        before = self._states.get(name, {})
        if self._kept is None:
            return before
        samples = range(len(condition)) if self._rows is None else self._rows
        return Earlier.at(self._kept, (name, evaluation), samples, before, condition.branches)

    def _condition(self, name: str, n: int, rows: Sequence[int] | None = None) -> Condition:
        condition = self._conditions.get(name)
        if condition is None:
            if name != MAIN:
                raise UserError(
                    f"this program asks about the condition {name!r}, and the run was given "
                    f"{', '.join(self._conditions) or 'none'}."
                )
            return Condition.none(n)
        return condition if rows is None else condition.rows(rows)

    def take(self, ask: Ask, call: Call, answer: Answer) -> Answers:
        """Note what ``answer`` says of the run; the values that the row writes."""
        self._evaluation += 1
        if answer.states:
            name = getattr(ask, "condition", MAIN)
            self._states[name] = {**self._states.get(name, {}), **answer.states}
        self._sums.append((call.levels[0].t, answer.x0.sum()))
        if not isinstance(ask, DenoiseWithVariance):
            return (answer.x0,)
        if answer.variance is None:
            raise UserError(
                "this program reads a variance, and the network did not learn one; use "
                "ddpm(variance='small')."
            )
        return answer.x0, answer.variance

    def noise(self, ask: Ask) -> Answers:
        """Fresh noise, of all pictures or of those that ``ask`` names."""
        return (self.fresh(ask.rows) if isinstance(ask, NoiseOf) else self.fresh(),)

    def check(self) -> None:
        """Raise :class:`NonFiniteError` naming the first network call that was not finite."""
        if not self._sums:
            return
        finite = torch.isfinite(torch.stack([total for _, total in self._sums])).tolist()
        if not all(finite):
            first = finite.index(False)
            raise NonFiniteError(
                f"the network's answer {first + 1} of {len(finite)} (t = {self._sums[first][0]:g}) "
                "is not finite. Its weights may be damaged or its dtype too narrow: use "
                "dtype=float32, or load the model again."
            )


def answer_together(
    waiting: Sequence[tuple[Session, Sequence[Pending]]],
) -> list[list[Answers]]:
    """The answers of rows that wait in several sessions of one denoiser, whose evaluations share
    network calls where they can."""
    calls = [
        (session, row.ask, session.call(row.ask, row.values, number))
        for session, rows in waiting
        for number, row in enumerate(row for row in rows if row.ask.calls)
    ]
    answers = iter(waiting[0][0].denoiser([call for _, _, call in calls]) if calls else [])
    taken = iter([session.take(ask, call, next(answers)) for session, ask, call in calls])
    return [
        [next(taken) if row.ask.calls else _at_hand(session, row) for row in rows]
        for session, rows in waiting
    ]


def _at_hand(session: Session, row: Pending) -> Answers:
    if isinstance(row.ask, (Noise, NoiseOf)):
        return session.noise(row.ask)
    computed = row.ask.compute(*row.values)
    assert computed is not None
    return computed


def drive(
    walk: Walk, session: Session, watch: Callable[[int, torch.Tensor], None] | None = None
) -> Latent:
    """Run a walk itself, for solvers that have no Program (step sizes that depend on the data)."""
    answer, calls = None, 0
    while True:
        try:
            ask = walk.send(answer)
        except StopIteration as stop:
            return stop.value
        (answers,) = session.answer((Pending(calls, ask, ask.reads()),))
        if watch is not None and ask.calls:
            watch(calls, answers[0])
        calls += ask.calls
        answer = answers[0] if len(answers) == 1 else answers
