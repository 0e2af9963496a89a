"""A Lever makes an evaluation cheaper: a student, fewer bits, cached features, merged tokens, a
smaller network at some evaluations.

A lever is a part like any other. What it does to a plan it declares: the stage at which it is
applied, what it asks of the rest of the plan, and traits from which exclusions follow, so that no
lever knows another by name. Preparing a network is a fold over the levers of a plan.
"""

from __future__ import annotations

import enum
import itertools
from abc import ABC
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

from torch import nn

from hasten.core.call import State
from hasten.core.codec import DecoderNetwork
from hasten.core.engine import Engine, Prepared
from hasten.core.errors import UserError, require
from hasten.core.executor import Executor
from hasten.core.model import Model
from hasten.core.program import Program
from hasten.core.registry import Registry
from hasten.core.solver import Solver

if TYPE_CHECKING:
    from hasten.core.resolved import Resolved


class Stage(enum.IntEnum):
    """When a lever is applied: levers of an earlier stage first."""

    MODEL = 0  # another network in the place of the model's
    STRUCTURE = 1  # what the network computes
    NUMBERS = 2  # what it computes in
    VARIANTS = 3  # more than one network, or one that is called in several ways


class Trait(enum.Enum):
    """What a lever does to a plan, as far as others have to know."""

    REPLACES = "puts another network in the place of the model's"
    MARKS = "says which variant of the network answers each evaluation"
    SPLITS = "splits the network in two"
    ADDS = "runs a second network"
    WHOLE = "is fitted to one whole network"
    ORDER = "keeps something from one evaluation to the next"
    RUNS = "keeps something from one run to the next"
    PROGRAM = "is a column of a program"
    DYNAMIC = "decides by the data what is computed"
    INTEGERS = "computes in integers"
    BITS = "changes the bits of the answers"


# Two levers exclude each other where one has a trait on the left and the other one on the right.
EXCLUSIVE: tuple[tuple[Trait, Trait], ...] = (
    (Trait.REPLACES, Trait.REPLACES),
    (Trait.MARKS, Trait.MARKS),
    (Trait.WHOLE, Trait.SPLITS),
    (Trait.WHOLE, Trait.ADDS),
    (Trait.WHOLE, Trait.WHOLE),
    (Trait.SPLITS, Trait.ADDS),
    (Trait.SPLITS, Trait.SPLITS),
    (Trait.RUNS, Trait.RUNS),
    (Trait.RUNS, Trait.ORDER),
    (Trait.RUNS, Trait.INTEGERS),
)


class Lever(ABC):
    """Parts are frozen keyword-only dataclasses whose fields are their options.

    Attributes:
        target: what it makes cheaper: ``network``, ``decoder``, that of latents, or ``text``, the
            text encoders.
        stage: when it is applied.
        traits: what it does to a plan; exclusions follow from them.
        engines: those that can run it, () for all.
        exports: whether a network that it was applied to can be exported.
        decides: it decides solver, grid, steps and clip of a plan that gives none of them.
    """

    part_name: ClassVar[str]
    target: ClassVar[str] = "network"
    stage: ClassVar[Stage] = Stage.STRUCTURE
    traits: ClassVar[frozenset[Trait]] = frozenset()
    engines: ClassVar[tuple[str, ...]] = ()
    exports: ClassVar[bool] = True
    decides: ClassVar[bool] = False

    @property
    def cut(self) -> str | None:
        """Stands for the split of a lever that splits the network; levers with the same cut can
        share a prepared network."""
        return None

    @property
    def once(self) -> bool:
        """Whether it is done with once it was applied: nothing of it is at work at a call."""
        each_call = ("wrap", "mark", "open")
        return all(getattr(type(self), name) is getattr(Lever, name) for name in each_call)

    def fields(self) -> Mapping[str, object]:
        """The fields of a plan that it decides, see ``decides``; may read its file."""
        return {}

    def model(self, model: Model, other_weights: bool, load: LoadModel) -> Model:
        """The model that is sampled in the place of ``model``: its schedule, prediction, network.

        Raises:
            UserError: it was made for other weights, and ``other_weights`` does not allow that.
        """
        return model

    def mark(self, program: Program) -> Program:
        """``program`` with the variant of each evaluation."""
        return program

    def check(self, resolved: Resolved) -> None:  # noqa: B027
        """Refuse a plan or model that it cannot be applied to, beyond what its traits say."""

    def check_times(self, times: Sequence[float]) -> None:  # noqa: B027
        """Refuse a plan whose evaluations are at ``times`` that it was not made for."""

    def transform(self, model: Model, resolved: Resolved) -> Model:
        """``model`` with a cheaper network; the network it had stays as it is."""
        return model

    def decoder(self, decoder: DecoderNetwork) -> DecoderNetwork:
        """What is cheaper than ``decoder``, the network of a codec; of levers whose target it
        is."""
        return decoder

    def text_encoder(self, encoder: nn.Module) -> nn.Module:
        """What is cheaper than the text encoder ``encoder``, which stays as it is; of levers whose
        target it is."""
        return encoder

    @property
    def prompts_kept(self) -> int:
        """How many prompts' embeddings are kept from call to call."""
        return 0

    def wrap(self, net: Prepared, model: Model, resolved: Resolved) -> Prepared:
        """``net``, which an engine has prepared from ``model`` (after all levers), with what is
        done at every call."""
        return net

    def open(self, resolved: Resolved) -> State | None:
        """What a run keeps before its first evaluation; None where it keeps nothing."""
        return None

    def key(self, resolved: Resolved) -> tuple[str, ...]:
        """What the prepared network depends on: plans of equal keys can share it."""
        return (levers.text(self),)

    def variant_macs(
        self, resolved: Resolved, network_macs: Callable[[Model], tuple[int, int]]
    ) -> Mapping[str, int]:
        """Multiply-accumulates of one row for each variant that it changes or adds.

        Args:
            network_macs: those of a model's network, in full and with what it keeps.
        """
        return {}

    @classmethod
    def candidates(cls, model: Model) -> Sequence[Lever]:
        """Configurations of this lever that the tuner may try on ``model`` unasked, on the fastest
        plan that passes; none where it has to be calibrated or learned first."""
        return ()


LoadModel = Callable[[str, Model], Model]
"""``load(folder, model)``: the model in a folder (or ``builtin:NAME``), on the device of ``model``;
low-rank weights are applied to ``model``'s network."""

levers: Registry[Lever] = Registry("lever", "hasten.levers")


def check_traits(chosen: Sequence[Lever], executor: Executor, engine: Engine) -> None:
    """Refuse levers that exclude each other, the executor or the engine.

    Raises:
        UserError: naming both, and what to do.
    """
    for lever, other in itertools.combinations(chosen, 2):
        for a, b in EXCLUSIVE:
            for first, second in ((lever, other), (other, lever)):
                if a in first.traits and b in second.traits:
                    raise UserError(
                        f"plan field 'levers': {first.part_name!r} {a.value}, and "
                        f"{second.part_name!r} {b.value}; drop one."
                    )
    for lever in chosen:
        for trait in (Trait.ORDER, Trait.RUNS):
            require(
                trait not in lever.traits or executor.in_order,
                f"lever {lever.part_name!r} {trait.value}, but executor "
                f"{executor.part_name!r} evaluates several at once or a part of the batch. Use "
                f"'sequential', or drop {lever.part_name}.",
            )
        require(
            Trait.DYNAMIC not in lever.traits or not engine.static,
            f"lever {lever.part_name!r} {Trait.DYNAMIC.value}, which is no static graph, so engine "
            f"{engine.part_name!r} cannot run it. Use engine=eager, or drop {lever.part_name}.",
        )


def check_solver(chosen: Sequence[Lever], solver: Solver) -> None:
    """Refuse a solver that has no program for a lever that is a column of one."""
    for lever in chosen:
        require(
            Trait.PROGRAM not in lever.traits or solver.traceable,
            f"lever {lever.part_name!r} {Trait.PROGRAM.value}, but solver "
            f"{solver.part_name!r} has none: its steps depend on the data. Use another solver, or "
            f"drop {lever.part_name}.",
        )
