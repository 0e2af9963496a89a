"""Feature reuse: an evaluation runs a part of the network, and takes the rest from an earlier one.

A split network is called in two ways, ``(x, t, cond) -> (answer, *kept)`` in full and ``(x, t,
cond, *kept) -> answer`` in part, so each is one static graph. Which evaluation does which is the
column ``reuse`` of a Program. What is kept lives in the run that keeps it, and nowhere else.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import torch

from hasten.core.engine import Engine, Prepared
from hasten.core.errors import UserError, require, require_whole
from hasten.core.executor import Executor
from hasten.core.level import Level
from hasten.core.program import Program
from hasten.core.registry import Registry
from hasten.core.solver import Solver


class Reuse(ABC):
    """What is reused, and when.

    Attributes:
        networks: the classes it can split, in words.
        engines: the engines that can run it; empty for all.
        forecast: 1 extrapolates what was kept along t (first order), 0 takes it as it is.
        static: which evaluations reuse is known beforehand, so there are two graphs.
    """

    part_name: ClassVar[str]
    static: ClassVar[bool] = True
    networks: ClassVar[str]
    engines: ClassVar[tuple[str, ...]] = ()
    forecast: int = 0

    @abstractmethod
    def where(self) -> dict[str, Any]:
        """The options that say where the network is split."""

    @abstractmethod
    def marked(self, program: Program) -> Program:
        """``program`` with the evaluations marked that reuse.

        Raises:
            UserError: the mask does not have one entry for each evaluation.
        """

    @property
    def cut(self) -> str:
        """Stands for the split: parts with the same cut can share a prepared network."""
        return f"{self.part_name} {self.where()}"

    def open(self, split: Split, program: Program | None = None) -> Features:
        """What one run of ``program`` keeps, empty; None for a run of a part of it."""
        return Features(split, self.forecast)

    def split(self, net: torch.nn.Module) -> torch.nn.Module:
        """``net`` as a module that can be called in both ways; shares its weights.

        Raises:
            UserError: the network cannot be split here.
        """
        make = getattr(net, "split", None)
        if make is None:
            raise UserError(
                f"reuse {self.part_name!r} cannot split a {type(net).__name__}; it splits "
                f"{self.networks}, and networks with a method split(kind, **where)."
            )
        return make(self.part_name, **self.where())


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scheduled(Reuse):
    """Reuse on a schedule that is known beforehand.

    Attributes:
        every: each ``every``-th evaluation is full; 1 reuses nothing.
        mask: in place of ``every``, for each evaluation 1 where it is full and 0 where it reuses.
        forecast: 1 extrapolates the kept features along t from the last two full evaluations
            (Taylor of order 1, 2503.06923), once there are two.
    """

    every: int = 2
    mask: tuple[int, ...] | None = None
    forecast: int = 0

    def __post_init__(self) -> None:
        require_whole("reuse option every", self.every, 1, 10_000)
        require_whole("reuse option forecast", self.forecast, 0, 1)
        if self.mask is None:
            return
        mask = list(self.mask) if isinstance(self.mask, (tuple, list)) else []
        good = len(mask) > 0 and all(isinstance(one, int) and one in (0, 1) for one in mask)
        require(good, f"reuse option mask is {self.mask!r}; it takes ones (full) and zeros, (1,0).")
        early = "reuse option mask begins with 0, but nothing is kept yet; begin with 1."
        require(mask[0] == 1, early)
        require(self.every == 2, "reuse takes every or mask, not both; drop one.")
        object.__setattr__(self, "mask", tuple(map(int, mask)))

    def marked(self, program: Program) -> Program:
        asks = program.evaluations
        mask = self.mask or tuple(int(k % self.every == 0) for k in range(asks))
        require(
            len(mask) == asks,
            f"reuse option mask has {len(mask)} entries, but the plan makes {asks} evaluations; "
            "give one for each.",
        )
        return with_reuse(program, [not full for full in mask])


class Split(Prepared):
    """A split network that an engine has prepared; called like a network, it answers in full."""

    def __init__(self, net: Prepared, reuse: Reuse) -> None:
        self.net, self.cut = net, reuse.cut
        self.precision, self.versions = net.precision, net.versions
        self.weights_mb = net.weights_mb

    def full(
        self, x: torch.Tensor, t: torch.Tensor, cond: Any, *kept: torch.Tensor
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        """The answer, and what is to be kept; ``kept`` is for networks that decide themselves."""
        answer, *new = self.net(x, t, cond, *kept)
        return answer, tuple(new)

    def part(
        self, x: torch.Tensor, t: torch.Tensor, cond: Any, *kept: torch.Tensor
    ) -> torch.Tensor:
        """The answer with the features that were kept; time and label are the current ones."""
        return self.net(x, t, cond, *kept)

    def __call__(
        self, x: torch.Tensor, t: torch.Tensor, cond: Any = None, *kept: torch.Tensor
    ) -> torch.Tensor:
        return self.full(x, t, cond)[0]


class Features:
    """What one run keeps. Row i belongs to picture i, so a picture never sees another; the null
    branch of guidance has the rows behind those of the wanted one."""

    def __init__(self, split: Split, forecast: int = 0) -> None:
        self._split, self._forecast = split, forecast
        self._held: list[tuple[torch.Tensor, tuple[torch.Tensor, ...]]] = []

    @property
    def kept(self) -> tuple[torch.Tensor, ...]:
        """What the last full evaluation kept."""
        return self._held[-1][1]

    def full(self, x: torch.Tensor, t: torch.Tensor, cond: Any = None) -> torch.Tensor:
        """A full evaluation, whose features are kept."""
        answer, kept = self._split.full(x, t, cond)
        before = self._held[-1:] if self._forecast else []
        self._held = [*before, (t, kept)]
        return answer

    def part(self, x: torch.Tensor, t: torch.Tensor, cond: Any = None) -> torch.Tensor:
        """An evaluation that reuses what was kept."""
        if not self._held:
            raise UserError("an evaluation reuses features before any are kept; make it full.")
        return self._split.part(x, t, cond, *self.at(t))

    def at(self, t: torch.Tensor) -> list[torch.Tensor]:
        """The features to reuse at ``t`` (n,), for the first n rows."""
        n, (last, kept) = len(t), self._held[-1]
        if len(last) < n:
            raise UserError(
                "guidance begins at an evaluation that reuses the features of one without "
                "guidance; let the mask be full where guidance begins."
            )
        early, older = self._held[0]
        if len(self._held) < 2 or len(early) < n:
            return [one[:n] for one in kept]
        gap = last[:n] - early[:n]
        share = torch.where(gap == 0, 0.0, (t - last[:n]) / torch.where(gap == 0, 1.0, gap))
        return [_ahead(a[:n], b[:n], share) for a, b in zip(older, kept, strict=True)]


def _ahead(a: torch.Tensor, b: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
    """``b + share * (b - a)``, row by row."""
    by = share.view(-1, *[1] * (b.ndim - 1)).to(b.dtype)
    return torch.addcmul(b, b - a, by)


def with_reuse(program: Program, column: list[bool]) -> Program:
    """``program`` with the column ``reuse``, one entry for each evaluation."""
    entries, rows = iter(column), []
    for row in program.rows:
        if row.ask.calls:
            row = dataclasses.replace(row, ask=_marked(row.ask, next(entries)))
        rows.append(row)
    return dataclasses.replace(program, rows=tuple(rows))


def _marked(ask: Any, reuse: bool) -> Any:
    known = {field.name for field in dataclasses.fields(ask)}
    if "reuse" not in known:
        raise UserError(f"reuse cannot mark the question {ask.op!r} of this program; drop reuse.")
    return dataclasses.replace(ask, reuse=reuse)


def check_reuse(reuse: Reuse, executor: Executor, solver: Solver, engine: Engine) -> None:
    """Refuse what cannot stand beside ``reuse`` in a plan, with the reason."""
    if not executor.in_order:
        raise UserError(
            f"reuse asks one question at a time, but executor {executor.part_name!r} asks several "
            "at once or of a part of the batch. Use 'sequential', or drop reuse."
        )
    require(
        solver.traceable,
        f"reuse is a column of a Program, but solver {solver.part_name!r} has none: its steps "
        "depend on the data. Use another solver, or drop reuse.",
    )
    runs = reuse.engines or (engine.part_name,)
    require(
        engine.part_name in runs,
        f"reuse {reuse.part_name!r} decides by what it sees, which is no static graph, so engine "
        f"{engine.part_name!r} cannot run it. Use engine={runs[0]}, or a reuse with a mask.",
    )


def check_guidance(program: Program, scale: Callable[[Level], float]) -> None:
    """Refuse a program in which guidance begins at an evaluation that reuses features: those of the
    null branch were never computed."""
    guided = False
    levels = zip(program.levels, program.reuses, strict=True)
    for number, (level, reuses) in enumerate(levels):
        now = scale(level) != 1.0
        if reuses and now and not guided:
            raise UserError(
                f"guidance begins at evaluation {number + 1}, which reuses the features of one "
                "without guidance; let reuse's mask have a 1 there."
            )
        guided = guided if reuses else now


reuses: Registry[Reuse] = Registry("reuse", "hasten.levers")
