"""A smaller network at the evaluations where that costs nothing: width that follows the timestep,
by a column of the Program (as OMS-DPM chooses among models of several sizes, 2306.08860)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch

from hasten.core.call import FULL, Call
from hasten.core.condition import Condition
from hasten.core.engine import Prepared
from hasten.core.errors import require, require_path
from hasten.core.lever import Lever, Stage, Trait, levers
from hasten.core.model import Model
from hasten.core.program import Program
from hasten.levers.student import student_of

if TYPE_CHECKING:
    from hasten.core.resolved import Resolved

SMALL = "small"  # the variant that the smaller network answers


@levers.add("small")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Small(Lever):
    """The network of ``folder``, a student such as `hasten learn prune` writes, at the evaluations
    whose entry of ``at`` is 1; the model's at the others."""

    folder: str
    at: tuple[int, ...]

    stage = Stage.VARIANTS
    traits = frozenset({Trait.ADDS, Trait.MARKS, Trait.PROGRAM, Trait.BITS})
    exports = False

    def __post_init__(self) -> None:
        require_path("lever option folder", self.folder)
        column = list(self.at) if isinstance(self.at, (tuple, list)) else []
        require(
            bool(column) and all(entry in (0, 1) for entry in column),
            f"lever option at is {self.at!r}; it takes ones (small) and zeros, as in (0, 1, 1).",
        )
        object.__setattr__(self, "at", tuple(map(int, column)))

    def mark(self, program: Program) -> Program:
        require(
            len(self.at) == program.evaluations,
            f"lever option at has {len(self.at)} entries, but the plan makes "
            f"{program.evaluations} evaluations; give one for each.",
        )
        return program.with_variants([SMALL if entry else FULL for entry in self.at])

    def smaller(self, resolved: Resolved) -> Model:
        """The second model.

        Raises:
            UserError: its answers mean something else than those of the first.
        """
        small = student_of(
            resolved.requested, self.folder, resolved.plan.other_weights, resolved.load, "small"
        )
        model = resolved.model
        require(
            (model.schedule, model.prediction, model.learned_variance)
            == (small.schedule, small.prediction, small.learned_variance),
            f"lever 'small' has the folder {self.folder!r}, which predicts "
            f"{small.prediction.part_name!r} on schedule {small.schedule.part_name!r}, and the "
            f"other network {model.prediction.part_name!r} on {model.schedule.part_name!r}; they "
            "have to be the same.",
        )
        return small

    def wrap(self, net: Prepared, model: Model, resolved: Resolved) -> Prepared:
        small = resolved.engine.prepare(self.smaller(resolved), resolved.plan.dtype)
        return TwoNetworks(net, small)

    def key(self, resolved: Resolved) -> tuple[str, ...]:
        return (SMALL, self.folder)

    def variant_macs(
        self, resolved: Resolved, network_macs: Callable[[Model], tuple[int, int]]
    ) -> Mapping[str, int]:
        return {SMALL: network_macs(self.smaller(resolved))[0]}


class TwoNetworks(Prepared):
    """A network, and a smaller one that answers the variant ``small``."""

    def __init__(self, whole: Prepared, small: Prepared) -> None:
        self.whole, self.small = whole, small
        self.precision, self.versions = whole.precision, whole.versions
        self.weights_mb = round(whole.weights_mb + small.weights_mb, 3)

    def __call__(
        self,
        x: torch.Tensor,
        t: torch.Tensor,
        condition: Condition | torch.Tensor | None = None,
        *kept: torch.Tensor,
    ) -> Any:
        return self.whole(x, t, condition, *kept)

    def run(self, call: Call, x: torch.Tensor, t: torch.Tensor) -> tuple[torch.Tensor, Any]:
        if call.variant == SMALL:
            return self.small(x, t, call.condition), call.state
        return self.whole.run(call, x, t)
