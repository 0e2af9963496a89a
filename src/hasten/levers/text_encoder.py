"""Text encoders in few bits: T5 has more weights than many of the networks that read it."""

from __future__ import annotations

import copy
import dataclasses
from typing import TYPE_CHECKING

from torch import nn

from hasten.core.errors import require_choice
from hasten.core.lever import Lever, Stage, Trait, levers
from hasten.levers.prompt_cache import refuse_outside_pipelines
from hasten.levers.torchao import KINDS, in_few_bits_, require_torchao

if TYPE_CHECKING:
    from hasten.core.resolved import Resolved


@levers.add("text-encoder")
@dataclasses.dataclass(frozen=True, kw_only=True)
class TextEncoder(Lever):
    """The linear layers of a pipeline's text encoders in eight bits by torchao; ``int8-weights``
    halves the memory of bfloat16."""

    kind: str = "int8-weights"

    target = "text"
    stage = Stage.NUMBERS
    traits = frozenset({Trait.BITS})
    exports = False

    def __post_init__(self) -> None:
        require_choice("lever option kind", self.kind, KINDS)

    def text_encoder(self, encoder: nn.Module) -> nn.Module:
        require_torchao(self.part_name)
        small = copy.deepcopy(encoder)
        in_few_bits_(small, self.kind, lambda part, _: isinstance(part, nn.Linear))
        return small

    def check(self, resolved: Resolved) -> None:
        refuse_outside_pipelines(self)

    def key(self, resolved: object) -> tuple[str, ...]:
        return ()  # the network is what it was
