"""ONNX Runtime: float32 on a CPU, with fixed shapes and torch's number of threads."""

from __future__ import annotations

import dataclasses
from types import ModuleType

import torch

from hasten.core.engine import Engine, Flat, Runner, Static, engines
from hasten.core.errors import UserError, require
from hasten.core.model import Model
from hasten.engines.graph import onnx_file

PROVIDER = "CPUExecutionProvider"


class OnnxNet(Static):
    """Sessions by batch size."""

    precision = "float32"
    ahead = True

    def __init__(self, model: Model, runtime: ModuleType) -> None:
        super().__init__(model)
        self._runtime = runtime
        self.versions = {"onnxruntime": runtime.__version__}
        count = sum(weight.numel() for weight in model.net.parameters())
        self.weights_mb = round(count * 4 / 1e6, 3)

    def compile(self, flat: Flat, inputs: list[torch.Tensor]) -> Runner:
        file = onnx_file(self.model, flat, inputs)
        options = self._runtime.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.log_severity_level = 3
        try:
            session = self._runtime.InferenceSession(str(file), options, providers=[PROVIDER])
        except Exception as error:
            what = str(error).strip().splitlines()[-1][:160]
            raise UserError(
                f"engine 'onnxruntime' cannot load {self.model.name!r} ({what}); set engine=eager."
            ) from error
        kinds = {output.type for output in session.get_outputs()}
        require(kinds == {"tensor(float)"}, f"ONNX Runtime answers in {kinds}, not float32.")
        names = [value.name for value in session.get_inputs()]

        def call(*tensors: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
            arrays = [value.numpy() for value in tensors]
            answers = session.run(None, dict(zip(names, arrays, strict=True)))
            out = [torch.from_numpy(answer) for answer in answers]
            return tuple(out) if len(out) > 1 else out[0]

        return call


@engines.add("onnxruntime")
@dataclasses.dataclass(frozen=True, kw_only=True)
class OnnxRuntime(Engine):
    """Microsoft's runtime with its CPU provider."""

    title = "ONNX Runtime"

    dtypes = ("float32",)
    devices = ("cpu",)
    modules = ("onnxruntime", "onnxscript")
    extra = "onnx"
    own_threads = True

    def prepare(self, model: Model, dtype: str) -> OnnxNet:
        import onnxruntime

        return OnnxNet(model, onnxruntime)
