"""The network of a pipeline run by an engine, and called as the pipeline calls it."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence

import torch
from torch.utils import _pytree as pytree

from hasten.adapters.standing_in import Forward
from hasten.adapters.untyped import Answer
from hasten.core.engine import Engine, Flat, Runner, Static, beside
from hasten.core.errors import require
from hasten.core.model import Model
from hasten.core.noise_schedule import schedule
from hasten.core.prediction import prediction

CLOSE = 1e-2  # relative: of an engine's answer and the network's own


@dataclasses.dataclass(frozen=True)
class Arguments:
    """How tensors make the arguments of a call; what a graph is compiled for."""

    structure: pytree.TreeSpec
    others: tuple[object, ...]

    parts = True  # a graph takes more than x and t

    @property
    def key(self) -> tuple[object, ...]:
        return (str(self.structure), repr(self.others))

    def build(self, tensors: Sequence[torch.Tensor], n: int) -> tuple[torch.Tensor, ...]:
        """What follows x and t; :meth:`made` puts all of it together."""
        return tuple(tensors)

    def made(self, tensors: Sequence[torch.Tensor]) -> tuple[tuple[object, ...], dict[str, object]]:
        """The arguments that ``tensors`` belong to."""
        left = iter(tensors)
        leaves = [next(left) if other is TENSOR else other for other in self.others]
        return pytree.tree_unflatten(leaves, self.structure)


class _Tensor:
    """Stands for a tensor among the arguments."""

    def __repr__(self) -> str:
        return "tensor"


TENSOR = _Tensor()


class _AsNetwork(torch.nn.Module):
    """A network called with its tensors in order, that answers with one."""

    def __init__(self, forward: Forward, arguments: Arguments) -> None:
        super().__init__()
        self.module = forward.__self__  # type: ignore[attr-defined]
        self.arguments, self._forward = arguments, forward

    def forward(
        self, x: torch.Tensor, t: torch.Tensor, more: Sequence[torch.Tensor] = ()
    ) -> torch.Tensor:
        inputs, options = self.arguments.made([x, t, *more])
        (answer,) = pytree.tree_leaves(_plain(self._forward(*inputs, **options)))
        return answer


def run_by(engine: Engine, dtype: str) -> Callable[[Forward], Forward]:
    """Makes a ``forward`` that ``engine`` runs, from that of a network: a graph for every shape it
    meets, held against the network's own answer at first.

    Raises:
        UserError: when it is called: the engine cannot run the network, or answers otherwise.
    """

    def around(forward: Forward) -> Forward:
        known: dict[tuple[object, ...], tuple[Runner, object, torch.dtype]] = {}

        @functools.wraps(forward)
        def run(*inputs: object, **options: object) -> object:
            leaves, structure = pytree.tree_flatten((inputs, options))
            tensors = [value for value in leaves if isinstance(value, torch.Tensor)]
            others = (TENSOR if isinstance(value, torch.Tensor) else value for value in leaves)
            arguments = Arguments(structure, tuple(others))
            shapes = tuple((value.shape, value.dtype, value.device) for value in tensors)
            key = (*arguments.key, shapes)
            if key in known:
                graph, like, kind = known[key]
                with beside(engine):
                    return _answered(graph(*tensors).to(kind), like)
            answer = forward(*inputs, **options)
            answers = pytree.tree_leaves(_plain(answer))
            require(
                len(answers) == 1,
                f"{_name(forward)} answers with {len(answers)} tensors, and engine "
                f"{engine.part_name!r} runs networks that answer with one; call hasten.undo(pipe), "
                "and apply the plan with engine=eager.",
            )
            value = answers[0]
            graph = _graph(engine, dtype, forward, arguments, tensors)
            with beside(engine):
                apart = (graph(*tensors) - value).norm() / value.norm().clamp_min(1e-12)
            require(
                float(apart) < CLOSE,
                f"engine {engine.part_name!r} answers otherwise than {_name(forward)} (off by "
                f"{float(apart):.2g}); call hasten.undo(pipe), and apply the plan with "
                "engine=eager.",
            )
            known[key] = graph, _answered(value.new_empty(0), answer), value.dtype
            return answer

        return run

    return around


def _graph(
    engine: Engine,
    dtype: str,
    forward: Forward,
    arguments: Arguments,
    tensors: list[torch.Tensor],
) -> Runner:
    net = _AsNetwork(forward, arguments).eval()
    model = Model(
        net=net,
        schedule=schedule("flow"),  # neither is looked at
        prediction=prediction("flow"),
        shape=tuple(tensors[0].shape[1:]),
        name=_name(forward),
    )
    engine.check(model, dtype)
    prepared = engine.prepare(model, dtype)
    assert isinstance(prepared, Static)
    with torch.inference_mode(False), torch.no_grad():
        flat = Flat(prepared.network, arguments, len(tensors) - 2)  # type: ignore[arg-type]
        return prepared.compile(flat, [value.clone() for value in tensors])


def _plain(answer: Answer) -> Answer:
    """What a network of diffusers answers, without its class."""
    return dict(answer) if isinstance(answer, dict) else answer


def _name(forward: Forward) -> str:
    return type(forward.__self__).__name__  # type: ignore[attr-defined]


def _answered(value: torch.Tensor, like: Answer) -> Answer:
    """``value`` in the kind of answer that ``like`` is."""
    if isinstance(like, tuple) and not isinstance(like, dict):
        return (value,)
    if isinstance(like, dict):
        return type(like)(**{next(iter(like)): value})
    return value
