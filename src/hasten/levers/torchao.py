"""Linear layers in few bits by torchao, for transformers in torch: a scale a row of weights, and
activations ranged as they come, so that nothing is calibrated and every plan can use it."""

from __future__ import annotations

import copy
import dataclasses
import importlib.util
from typing import Any

import torch

from hasten.core.engine import Engine, Prepared
from hasten.core.errors import require, require_choice
from hasten.core.model import Model
from hasten.levers.quantize import layers

PREFIX = "torchao:"
CONFIGS = {
    "int8": "Int8DynamicActivationInt8WeightConfig",
    "int8-weights": "Int8WeightOnlyConfig",  # for memory
    "fp8": "Float8DynamicActivationFloat8WeightConfig",
}
ENGINES = ("eager", "compile")
FP8_FROM = (8, 9)  # the compute capability from which a GPU multiplies in eight-bit floats


def by_torchao(model: Model, name: str, engine: Engine, dtype: str) -> Prepared:
    """``model``'s network in ``dtype`` with its linear layers as ``name`` (``torchao:int8``,
    ``torchao:int8-weights``, ``torchao:fp8``) says, but for those that a quantization keeps.

    Raises:
        UserError: torchao is missing, the engine is another runtime, the network has no linear
            layer of the kind, or the device has no such arithmetic.
    """
    kind, field = name.removeprefix(PREFIX), "plan field 'quantize'"
    require_choice(f"{field} after {PREFIX}", kind, CONFIGS)
    require(
        importlib.util.find_spec("torchao") is not None,
        f"{field} is {name!r}, which needs: pip install torchao",
    )
    require(
        engine.part_name in ENGINES,
        f"{field} is {name!r}, which engine {engine.part_name!r} does not run; set engine=compile, "
        "or use a file of `hasten learn quantize`.",
    )
    cuda = model.device.type == "cuda" and torch.cuda.get_device_capability(model.device)
    require(
        kind != "fp8" or (cuda and cuda >= FP8_FROM),
        f"{field} is {name!r}, and {model.device} does not multiply in eight-bit floats; use "
        f"{PREFIX}int8.",
    )
    chosen = {name for name, part in layers(model.net) if isinstance(part, torch.nn.Linear)}
    require(
        bool(chosen),
        f"{field} is {name!r}, and this network has no linear layers beside those that are kept; "
        "use a file of `hasten learn quantize`.",
    )
    import torchao.quantization as torchao  # pyright: ignore[reportMissingImports]

    net = copy.deepcopy(model.net).to(getattr(torch, dtype))
    torchao.quantize_(net, getattr(torchao, CONFIGS[kind])(), lambda _, path: path in chosen)
    ready = engine.prepare(dataclasses.replace(model, net=net), dtype)
    ready.precision = f"{ready.precision}, {len(chosen)} layers in {kind}"
    ready.weights_mb = round(sum(map(_bytes, (*net.parameters(), *net.buffers()))) / 1e6, 3)
    return ready


def _bytes(value: Any) -> int:
    """Of a tensor, or of the tensors that one in few bits is made of."""
    if not hasattr(value, "__tensor_flatten__"):
        return value.numel() * value.element_size()
    return sum(_bytes(getattr(value, name)) for name in value.__tensor_flatten__()[0])
