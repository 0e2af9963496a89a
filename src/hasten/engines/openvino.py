"""OpenVINO, in the precision that was asked for.

Left to itself its CPU plugin computes float32 models in bfloat16 where the CPU can; the hint is
therefore always set, read back, and held against what the compiled graph's heavy operators run in.
"""

from __future__ import annotations

import collections
import dataclasses
from typing import TYPE_CHECKING

import torch

from hasten.core.engine import Engine, Flat, Runner, Static, engines
from hasten.core.errors import UserError
from hasten.core.model import Model
from hasten.engines.graph import onnx_file
from hasten.engines.group_norm import by_channel

if TYPE_CHECKING:
    import openvino

HINTS = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}
HEAVY = ("Convolution", "FullyConnected", "MatMul", "Gemm", "Deconvolution")


class OpenVinoNet(Static):
    """Compiled models by batch size."""

    ahead = True

    def __init__(self, model: Model, dtype: str, core: openvino.Core, version: str) -> None:
        super().__init__(model)
        self.dtype, self.precision, self._core = dtype, dtype, core
        if dtype != "float32" and self.time_in_graph:
            self.precision = f"{dtype}, times as well: {self.time_in_graph}"
        self.versions = {"openvino": version.split("-")[0]}
        if dtype == "float32" and getattr(self.model.net, "integers", ()):
            self.model = dataclasses.replace(self.model, net=by_channel(self.model.net))
            self.network = self.model.net
        count = sum(weight.numel() for weight in model.net.parameters())
        self.weights_mb = round(count * 4 / 1e6, 3)

    def compile(self, flat: Flat, inputs: list[torch.Tensor]) -> Runner:
        file = onnx_file(self.model, flat, inputs)
        options = {
            "INFERENCE_PRECISION_HINT": HINTS[self.dtype],
            "INFERENCE_NUM_THREADS": self.threads,
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
        }
        try:
            compiled = self._core.compile_model(str(file), "CPU", options)
        except RuntimeError as error:
            what = str(error).strip().splitlines()[-1][:160]
            raise UserError(
                f"engine 'openvino' cannot compile {self.model.name!r} in {self.dtype} "
                f"({what}); set engine=eager."
            ) from error
        self._check(compiled)
        request = compiled.create_infer_request()

        count = len(compiled.outputs)

        def call(*tensors: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
            arrays = [value.numpy() for value in tensors]
            answers = request.infer(arrays, share_inputs=True)
            out = tuple(torch.from_numpy(answers[i].copy()) for i in range(count))
            return out if count > 1 else out[0]

        return call

    def _check(self, compiled: openvino.CompiledModel) -> None:
        """Raise unless the graph's heavy operators run in the precision asked for."""
        counts = _precisions(compiled)
        wanted = HINTS[self.dtype]
        got = counts.most_common(1)[0][0] if counts else wanted
        # A network in few bits names the integers that its layers may run in.
        if got not in (wanted, *getattr(self.model.net, "integers", ())):
            raise UserError(
                f"dtype is {self.dtype!r}, but OpenVINO computes in {got} on this CPU; set "
                "dtype=float32, or engine=eager."
            )


@engines.add("openvino")
@dataclasses.dataclass(frozen=True, kw_only=True)
class OpenVino(Engine):
    """OpenVINO's CPU plugin, static shapes, one stream with torch's number of threads."""

    title = "OpenVINO"

    devices = ("cpu",)
    modules = ("openvino", "onnxscript")
    extra = "openvino"
    beside_integers = ("float32", "bfloat16")
    own_threads = True

    def prepare(self, model: Model, dtype: str) -> OpenVinoNet:
        import openvino

        return OpenVinoNet(model, dtype, openvino.Core(), openvino.get_version())


def _precisions(compiled: openvino.CompiledModel) -> collections.Counter[str]:
    """In how many heavy operators each precision is used."""
    counts: collections.Counter[str] = collections.Counter()
    for node in compiled.get_runtime_model().get_ordered_ops():
        facts = node.get_rt_info()
        if "layerType" in facts and facts["layerType"].astype(str) in HEAVY:
            counts[facts["runtimePrecision"].astype(str)] += 1
    return counts
