"""Which kernel computes attention: one of torch's own, or one of a package that diffusers knows."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import TYPE_CHECKING

from torch.nn.attention import SDPBackend, sdpa_kernel

from hasten.core.errors import require
from hasten.core.family import inner
from hasten.core.lever import Lever, Stage, Trait, levers
from hasten.core.model import Model
from hasten.core.sharing import sharing_weights

if TYPE_CHECKING:
    from hasten.core.resolved import Resolved

KERNELS = {
    "torch-math": SDPBackend.MATH,  # two matrix products and a softmax
    "torch-flash": SDPBackend.FLASH_ATTENTION,
    "torch-efficient": SDPBackend.EFFICIENT_ATTENTION,
    "torch-cudnn": SDPBackend.CUDNN_ATTENTION,
}


@levers.add("attention-backend")
@dataclasses.dataclass(frozen=True, kw_only=True)
class AttentionBackend(Lever):
    """Computes attention by the kernel ``name``: ``torch-math``, ``torch-flash``,
    ``torch-efficient`` or ``torch-cudnn`` in any network; in transformers also what diffusers calls
    its attention backends (``sage``, ``flash``, ``_flash_3``, ``flex``, ``xformers``), whose
    packages have to be installed."""

    name: str = "torch-math"

    stage = Stage.NUMBERS
    traits = frozenset({Trait.BITS})
    engines = ("eager", "compile", "compile-blocks", "cudagraph")
    exports = False

    def __post_init__(self) -> None:
        require(
            isinstance(self.name, str) and (self.name in KERNELS or "torch" not in self.name),
            f"lever option name is {self.name!r}; give {', '.join(KERNELS)}, or one of diffusers' "
            "attention backends, such as sage.",
        )

    def check(self, resolved: Resolved) -> None:
        engine = resolved.engine.part_name
        require(
            engine in self.engines,
            f"lever {self.part_name!r} chooses among the kernels of torch, and engine {engine!r} "
            f"has its own; set engine=eager, or drop {self.part_name}.",
        )

    def transform(self, model: Model, resolved: Resolved) -> Model:
        net = sharing_weights(model.net)
        part = inner(net)
        if self.name in KERNELS:
            part.forward = _within(KERNELS[self.name], part.forward)
        else:
            model.family.attention_backend_(part, self.name)
        return dataclasses.replace(model, net=net)


def _within(kernel: SDPBackend, forward: Callable[..., object]) -> Callable[..., object]:
    @functools.wraps(forward)
    def run(*inputs: object, **options: object) -> object:
        with sdpa_kernel(kernel):
            return forward(*inputs, **options)

    return run
