"""``torch.compile`` of the blocks that a network repeats, one graph for each kind of them: less to
compile at the first call than the whole network, and what is between blocks stays as it is.
(Regional compilation, as diffusers' ``compile_repeated_blocks``.)"""

from __future__ import annotations

import dataclasses

import torch

from hasten.core.engine import Engine, engines
from hasten.core.errors import require
from hasten.core.family import Family, inner
from hasten.core.model import Model
from hasten.core.sharing import sharing_weights
from hasten.engines.compile import require_compiler
from hasten.engines.eager import Cast


@engines.add("compile-blocks")
@dataclasses.dataclass(frozen=True, kw_only=True)
class CompileBlocks(Engine):
    """TorchInductor for the blocks of large transformers."""

    title = "torch.compile, block by block"
    static = False

    def prepare(self, model: Model, dtype: str) -> Cast:
        require_compiler(self.part_name, model.device)
        cast = Cast(model, getattr(torch, dtype))
        cast.net = with_compiled_blocks(cast.net, model.family)
        return cast


def with_compiled_blocks(net: torch.nn.Module, family: Family) -> torch.nn.Module:
    """``net``, of ``family``, with compiled blocks; its weights are shared, and ``net`` stays as it
    was.

    Raises:
        UserError: no blocks are known of it.
    """
    other = sharing_weights(net)
    repeated = getattr(inner(other), "_repeated_blocks", None) or ()  # diffusers' names of classes
    named = [part for part in other.modules() if type(part).__name__ in repeated]
    blocks = named or family.blocks(other)
    require(
        bool(blocks),
        f"engine 'compile-blocks' knows no repeated blocks of this network ({family.name}); set "
        "engine=compile.",
    )
    for block in blocks:
        block.compile()
    return other
