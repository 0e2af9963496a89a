"""One ONNX file, the programs as JSON, and a runner in NumPy."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from hasten.core.engine import Flat, engines
from hasten.core.errors import UserError
from hasten.core.model import Model
from hasten.engines.graph import onnx_file
from hasten.exporting.bundle import NET, Bundle
from hasten.exporting.runner import write_runner, write_text
from hasten.exporting.target import Call, Condition, Target, arrays, targets

if TYPE_CHECKING:
    from onnx import GraphProto

LARGE = 256  # numbers from which on a weight is worth a cast


@targets.add("onnx")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Onnx(Target):
    """For ONNX Runtime, one picture at a time; the weights lie in the file itself."""

    others = True
    prompts = True

    def check(self, model: Model) -> None:
        engines["onnxruntime"]().check(model, "float32")

    def write(self, bundle: Bundle, folder: Path) -> None:
        write_networks(bundle, folder)
        write_text(bundle, folder)
        write_runner(folder)

    def network(self, bundle: Bundle, folder: Path, name: str = NET) -> Call:
        import onnxruntime

        quiet = onnxruntime.SessionOptions()
        quiet.log_severity_level = 3
        session = onnxruntime.InferenceSession(
            str(folder / f"{name}.onnx"), quiet, providers=["CPUExecutionProvider"]
        )
        names = [value.name for value in session.get_inputs()]

        def call(x: torch.Tensor, t: float, condition: Condition) -> torch.Tensor:
            inputs = dict(zip(names, arrays(x, t, condition), strict=False))
            return torch.from_numpy(session.run(None, inputs)[0])

        return call


def example(bundle: Bundle, name: str) -> tuple[Flat, list[torch.Tensor]]:
    """The network ``name`` as a function of tensors, and inputs of the shapes that one picture has:
    x, a time, and the tensors of its condition."""
    model = bundle.networks()[name]
    x, t = torch.zeros(1, *model.shape), torch.zeros(1)
    structure, tensors = bundle.condition(name).flat(x, t)
    return Flat(model.net, structure, len(tensors)), [x, t, *tensors]


def write_networks(bundle: Bundle, folder: Path, half: bool = False) -> None:
    """Every network for one picture as a single ONNX file; with ``half`` its weights are stored in
    16 bits and computed with in 32."""
    for name, model in bundle.networks().items():
        exported = onnx_file(model, *example(bundle, name))
        _write(exported, folder / f"{name}.onnx", half)


def _write(exported: Path, file: Path, half: bool) -> None:
    import onnx

    network = onnx.load(str(exported))
    if half:
        _halve_(network.graph)
    onnx.save(network, str(file))
    try:
        onnx.checker.check_model(str(file))
    except onnx.checker.ValidationError as error:
        raise UserError(f"the exported network is not valid ONNX: {error}") from error


def _halve_(graph: GraphProto) -> None:
    """Every large float32 weight becomes a float16 one and a cast, which runtimes fold."""
    from onnx import TensorProto, helper, numpy_helper

    for tensor in list(graph.initializer):
        if tensor.data_type != TensorProto.FLOAT or math.prod(tensor.dims) < LARGE:
            continue
        values = numpy_helper.to_array(tensor).astype(np.float16)
        graph.initializer.remove(tensor)
        graph.initializer.append(numpy_helper.from_array(values, f"{tensor.name}.half"))
        cast = helper.make_node(
            "Cast", [f"{tensor.name}.half"], [tensor.name], to=TensorProto.FLOAT
        )
        graph.node.insert(0, cast)
