"""Linear layers in few bits by torchao, for transformers in torch: a scale a row of weights, and
activations ranged as they come, so that nothing is calibrated and every plan can use it."""

from __future__ import annotations

import copy
import dataclasses
import importlib.util
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from hasten.core.engine import Prepared
from hasten.core.errors import require, require_choice
from hasten.core.lever import Lever, Stage, Trait, levers
from hasten.core.model import Model
from hasten.levers.quantize import layers

if TYPE_CHECKING:
    from hasten.core.resolved import Resolved

KINDS = {
    "int8": "Int8DynamicActivationInt8WeightConfig",
    "int8-weights": "Int8WeightOnlyConfig",  # for memory
    "fp8": "Float8DynamicActivationFloat8WeightConfig",
}
ENGINES = ("eager", "compile", "compile-blocks")
FP8_FROM = (8, 9)  # the compute capability from which a GPU multiplies in eight-bit floats


@levers.add("torchao")
@dataclasses.dataclass(frozen=True, kw_only=True)
class TorchAO(Lever):
    """The linear layers in eight bits by torchao: ``int8``, ``int8-weights`` or ``fp8``."""

    kind: str = "int8"

    stage = Stage.NUMBERS
    traits = frozenset({Trait.WHOLE, Trait.INTEGERS, Trait.BITS})
    engines = ENGINES
    exports = False

    def __post_init__(self) -> None:
        require_choice("lever option kind", self.kind, KINDS)

    @property
    def once(self) -> bool:
        return True  # what it wraps is a report

    def check(self, resolved: Resolved) -> None:
        model, engine = resolved.model, resolved.engine
        require_torchao(self.part_name)
        require(
            engine.part_name in ENGINES,
            f"lever {self.part_name!r} is not run by engine {engine.part_name!r}; set "
            "engine=compile, or use a file of `hasten learn quantize`.",
        )
        cuda = model.device.type == "cuda" and torch.cuda.get_device_capability(model.device)
        require(
            self.kind != "fp8" or (cuda and cuda >= FP8_FROM),
            f"lever {self.part_name!r} has kind 'fp8', and {model.device} does not multiply in "
            "eight-bit floats; use int8.",
        )
        require(
            bool(_linear(model)),
            f"lever {self.part_name!r} quantizes linear layers, and this network has none beside "
            "those that are kept; use a file of `hasten learn quantize`.",
        )

    def transform(self, model: Model, resolved: Resolved) -> Model:
        chosen = _linear(model)
        net = copy.deepcopy(model.net).to(getattr(torch, resolved.plan.dtype))
        in_few_bits_(net, self.kind, lambda _, name: name in chosen)
        return dataclasses.replace(model, net=net)

    def wrap(self, net: Prepared, model: Model, resolved: Resolved) -> Prepared:
        count = len(_linear(resolved.model))
        net.precision = f"{net.precision}, {count} layers in {self.kind}"
        tensors = (*model.net.parameters(), *model.net.buffers())
        net.weights_mb = round(sum(map(_bytes, tensors)) / 1e6, 3)
        return net

    @classmethod
    def candidates(cls, model: Model) -> list[Lever]:
        return [TorchAO()]


def require_torchao(lever: str) -> None:
    """Refuse where torchao is not installed."""
    require(
        importlib.util.find_spec("torchao") is not None,
        f"lever {lever!r} needs: pip install torchao",
    )


def in_few_bits_(
    net: torch.nn.Module, kind: str, chosen: Callable[[torch.nn.Module, str], bool]
) -> None:
    """Quantize the layers of ``net`` that ``chosen`` says of them and of their names."""
    import torchao.quantization as torchao  # pyright: ignore[reportMissingImports]

    torchao.quantize_(net, getattr(torchao, KINDS[kind])(), chosen)


def _linear(model: Model) -> set[str]:
    """The names of the linear layers that may be quantized."""
    return {name for name, part in layers(model.net) if isinstance(part, torch.nn.Linear)}


def _bytes(value: torch.Tensor) -> int:
    """Of a tensor, or of the tensors that one in few bits is made of."""
    flatten = getattr(value, "__tensor_flatten__", None)
    if flatten is None:
        return value.numel() * value.element_size()
    return sum(_bytes(getattr(value, name)) for name in flatten()[0])
